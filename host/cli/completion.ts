// SPDX-License-Identifier: Apache-2.0

/** `vesper completion bash`: a script that completes commands, options, guests and probes. */

import { Argument, Command } from 'commander';
import { Catalogue } from '../probe/catalogue.ts';
import { builtCatalogueRoots } from './catalogue-roots.ts';
import { apiOf, example } from './context.ts';

/** Names for arguments of that name; none where they are not to be had: a completion does not complain. */
const names: Readonly<Record<string, (command: Command) => Promise<readonly string[]>>> = {
  guest: async (command) => (await apiOf(command).guests()).map(({ name }) => name),
  incident: async (command) => (await apiOf(command).incidents()).map(({ id }) => id),
  probe: async () => (await new Catalogue(builtCatalogueRoots()).list()).probes.map(({ name }) => name),
};

export function completionCommand(): Command {
  return new Command('completion')
    .description('Print a completion script for the shell.')
    .addArgument(new Argument('<shell>', 'which shell').choices(['bash']))
    .addHelpText('after', example('source <(vesper completion bash)'))
    .action((_shell: string, _options: unknown, command: Command) => {
      process.stdout.write(bashScript(command.parent?.commands ?? []));
    });
}

/** What the script calls for names: `vesper complete-names guest`. */
export function completeNamesCommand(): Command {
  return new Command('complete-names')
    .argument('<kind>')
    .action(async (kind: string, _options: unknown, command: Command) => {
      const found = await names[kind]?.(command).catch(() => []);
      process.stdout.write(`${(found ?? []).join('\n')}\n`);
    });
}

function bashScript(commands: readonly Command[]): string {
  const shown = commands.filter((command) => command.name() !== 'complete-names');
  const cases = shown.map((command) => {
    const options = command.options.flatMap(({ long }) => (long === undefined ? [] : [long]));
    const kinds = command.registeredArguments
      .map((argument) => argument.name())
      .filter((kind) => kind in names);
    return `    ${command.name()}) options="${[...options, '--help'].join(' ')}"; kinds="${kinds.join(' ')}" ;;`;
  });
  return `_vesper() {
  local word=\${COMP_WORDS[COMP_CWORD]} command=\${COMP_WORDS[1]} options kinds kind at
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "${shown.map((command) => command.name()).join(' ')}" -- "$word"))
    return
  fi
  case $command in
${cases.join('\n')}
  esac
  if [[ $word == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$word"))
    return
  fi
  # The last kind of argument may be given more than once.
  at=0
  for kind in $kinds; do
    at=$((at + 1))
    [ $((COMP_CWORD - 1)) -le "$at" ] && break
  done
  COMPREPLY=($(compgen -W "$([ -n "$kind" ] && vesper complete-names "$kind" 2>/dev/null)" -- "$word") $(compgen -f -- "$word"))
}
complete -o filenames -F _vesper vesper
`;
}

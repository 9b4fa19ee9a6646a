// SPDX-License-Identifier: Apache-2.0

/** The configuration file, as it is written: what may stand in it, and a sentence with line and column for each thing that may not. */

import { readFileSync } from 'node:fs';
import { type Document, isMap, isNode, isPair, LineCounter, parseDocument } from 'yaml';
import { z } from 'zod';
import { messageOf, VesperError } from '../error.ts';
import { relayBackends } from '../guest/relay-backend.ts';
import { logLevels } from '../log.ts';
import { actions, eventWords } from '../sink/pacemaker/rules.ts';
import type { PacemakerConfig } from './config.ts';
import { nearest } from './nearest.ts';

export const defaultConfigPath = '/etc/vesper/vesper.yaml';

const sizeUnits: Readonly<Record<string, number>> = { '': 1, KiB: 1 << 10, MiB: 1 << 20, GiB: 1 << 30 };
const timeUnits: Readonly<Record<string, number>> = { s: 1, min: 60, h: 3_600, d: 86_400 };
/** A frozen cluster manager is given up after that. */
const clusterCommandMs = 10_000;
const smallestRegion = 64 << 10;
const largestRegion = 1 << 30;

/** Every scalar is read as the text it is written as: `0660`, `yes` and `1e3` mean themselves. */
const text = z.string();

/** A text that `read` turns into something; undefined: not allowed, and `allowed` says what is. */
const parsed = <T>(read: (written: string) => T | undefined, allowed: string) =>
  text.transform((written, context) => {
    const value = read(written);
    if (value !== undefined) return value;
    context.addIssue({ code: 'custom', message: `"${written}" is not allowed: ${allowed}` });
    return z.NEVER;
  });

const absolutePath = parsed(
  (path) => (path.startsWith('/') ? path : undefined),
  'write a path from the root, /…',
);

const regionSize = parsed((written) => {
  const [, digits = '', unit = ''] = /^(\d+) ?(KiB|MiB|GiB|)$/.exec(written) ?? [];
  const bytes = Number(digits) * (sizeUnits[unit] ?? 0);
  const fits = bytes >= smallestRegion && bytes <= largestRegion && Number.isInteger(Math.log2(bytes));
  return fits ? bytes : undefined;
}, 'write a power of two from 64 KiB to 1 GiB, such as "2 MiB" or 2097152');

const duration = parsed((written) => {
  const [, digits = '', unit = ''] = /^(\d+) ?(s|min|h|d)$/.exec(written) ?? [];
  return digits === '' ? undefined : Number(digits) * (timeUnits[unit] ?? 0) * 1_000;
}, 'write a number with s, min, h or d, such as "24 h"');

const fileMode = parsed((written) => {
  const [, digits] = /^0?o?([0-7]{3})$/.exec(written) ?? [];
  return digits === undefined ? undefined : Number.parseInt(digits, 8);
}, 'write three octal digits, such as 0660');

const level = parsed(
  (written) => logLevels.find((one) => one === written),
  `write one of ${logLevels.join(', ')}`,
);

const relayBackend = parsed(
  (written) => relayBackends.find((one) => one === written),
  `write one of ${relayBackends.join(', ')}`,
);

const guestName = parsed(
  (written) => (written !== '' && !written.includes('=') ? written : undefined),
  'write the name of a guest',
);
const guestPattern = parsed(
  (written) => (written === '' ? undefined : written),
  'write a name, a UUID, or either with * and ?',
);
const probeName = parsed(
  (written) => (/^[\w-]{1,55}$/.test(written) ? written : undefined),
  'write the name of a probe, as vesper probes lists it; a .ko file goes into a directory of directories.catalogue',
);

const clusterName = parsed(
  (written) => (/^[A-Za-z0-9_][\w.-]*$/.test(written) ? written : undefined),
  'write a name as the cluster has it',
);
const clusterEvent = parsed(
  (written) =>
    eventWords.some((word) => word === written) || /^[\w-]+\.[\w-]+$/.test(written) ? written : undefined,
  `write one of ${eventWords.join(', ')}, or PROBE.EVENT`,
);
const clusterAction = parsed(
  (written) => actions.find((action) => action === written),
  `write one of ${actions.join(', ')}`,
);
const callsPerMinute = parsed(
  (written) => (/^[1-9]\d{0,3}$/.test(written) ? Number(written) : undefined),
  'write a number from 1 to 9999',
);
const yesOrNo = parsed((written) => ({ yes: true, no: false })[written], 'write yes or no');

/** `oom:` with nothing behind it is a probe without parameters. */
const parameters = z.preprocess((value) => (value === '' ? {} : value), z.record(text, text));

const schema = z.strictObject({
  providers: z
    .strictObject({
      qemu: z
        .strictObject({
          /** QMP sockets by the name of their guest. */
          monitors: z.record(guestName, absolutePath).default({}),
          /** Where the backend of a guest's vhost-user-vsock device takes calls, by the name of the guest. */
          vsock: z.record(guestName, absolutePath).default({}),
          /** Directories in which every NAME.qmp is one. */
          folders: z.array(absolutePath).default([]),
        })
        .optional(),
      /** With nothing in it: the system's libvirtd. */
      libvirt: z
        .preprocess(
          (value) => (value === '' ? {} : value),
          z.strictObject({ uri: text.optional(), guests: z.array(guestPattern).optional() }),
        )
        .optional(),
    })
    .default({}),
  directories: z
    .strictObject({
      run: absolutePath.optional(),
      state: absolutePath.optional(),
      regions: absolutePath.optional(),
      catalogue: z.array(absolutePath).optional(),
    })
    .default({}),
  api: z.strictObject({ group: text.optional(), mode: fileMode.optional() }).default({}),
  region: z.strictObject({ size: regionSize.optional() }).default({}),
  relay: z.strictObject({ backend: relayBackend.optional() }).default({}),
  metrics: z.strictObject({ listen: text.optional() }).default({}),
  black_box: z.strictObject({ keep: duration.optional() }).default({}),
  log: z.strictObject({ level: level.optional() }).default({}),
  probes: z
    .array(z.strictObject({ guest: guestPattern, attach: z.record(probeName, parameters) }))
    .default([]),
  pacemaker: z
    .strictObject({
      node: clusterName.optional(),
      /** Resources that are guests, by the name of the guest. */
      vms: z.record(guestName, clusterName).default({}),
      /** Guests that are nodes of the cluster, by the name of the guest. */
      nodes: z.record(guestName, clusterName).default({}),
      cooldown: duration.default(30_000),
      calls_per_minute: callsPerMinute.default(10),
      keep: duration.default(900_000),
      crash_dump: duration.default(300_000),
      rules: z
        .array(
          z
            .strictObject({
              guest: guestPattern,
              events: z.array(clusterEvent).min(1, 'name at least one event').optional(),
              process: text.min(1, 'write the name of a process, also with * and ?').optional(),
              cgroup: text.min(1, 'write a cgroup or a unit, also with * and ?').optional(),
              unit: text.min(1, 'write a unit of systemd, also with * and ?').optional(),
              pid_file: absolutePath.optional(),
              fields: z.record(text, text).default({}),
              resource: clusterName.optional(),
              action: clusterAction.default('fail'),
              second_sign: yesOrNo.default(false),
            })
            .refine(
              ({ events, process, unit, pid_file: pidFile }) =>
                [events, process, unit, pidFile].some((named) => named !== undefined),
              `name a process, a unit, a pid_file, or events: a list of ${eventWords.join(', ')} or PROBE.EVENT`,
            )
            .refine(
              ({ action, resource }) => action !== 'fence' || resource === undefined,
              'fence is about the node that the guest is: leave resource out, or fail it',
            ),
        )
        .default([]),
    })
    .optional(),
});

type Written = z.output<typeof schema>;
type WrittenCluster = NonNullable<Written['pacemaker']>;

/** Which probes the file wants on guests whose name or UUID matches. */
export interface ProbeRule {
  readonly guest: string;
  readonly probes: readonly ConfiguredProbe[];
}

export interface ConfiguredProbe {
  readonly name: string;
  readonly parameters: Readonly<Record<string, string>>;
  /** `FILE:LINE`, for people. */
  readonly where: string;
}

export interface ConfigFile extends Omit<Written, 'probes' | 'pacemaker'> {
  /** Of two that match a guest and name the same probe, the later one counts. */
  readonly probes: readonly ProbeRule[];
  readonly pacemaker?: PacemakerConfig | undefined;
}

/** Throws NOT_FOUND where there is no such file, HOST where it cannot be read, USAGE with every problem in it, a line each. */
export function readConfigFile(path: string): ConfigFile {
  try {
    return parseConfig(readFileSync(path, 'utf8'), path);
  } catch (thrown) {
    if (thrown instanceof VesperError) throw thrown;
    const code = (thrown as NodeJS.ErrnoException).code === 'ENOENT' ? 'NOT_FOUND' : 'HOST';
    throw new VesperError(code, `cannot read the configuration ${path}: ${messageOf(thrown)}`, {
      cause: thrown,
    });
  }
}

/** `path` is for messages. */
export function parseConfig(content: string, path: string): ConfigFile {
  const lines = new LineCounter();
  const document = parseDocument(content, { schema: 'failsafe', lineCounter: lines, prettyErrors: false });
  const at = (offset: number): string => {
    const { line, col } = lines.linePos(offset);
    return `${path}:${line}:${col}`;
  };
  const mistakes = [...document.errors, ...document.warnings];
  if (mistakes.length > 0) throw refused(mistakes.map(({ pos, message }) => `${at(pos[0])}: ${message}`));
  const result = schema.safeParse(withoutEmpty(document.toJS()));
  if (!result.success) {
    const found = result.error.issues.flatMap((issue) => problems(issue, document));
    found.sort((one, other) => one.offset - other.offset);
    throw refused(found.map(({ offset, sentence }) => `${at(offset)}: ${sentence}`));
  }
  const { probes, pacemaker, ...rest } = result.data;
  const lineOf = (...keys: Path): string => at(offsetOf(document, keys)).replace(/:\d+$/, '');
  return {
    ...rest,
    ...(pacemaker === undefined
      ? {}
      : { pacemaker: clusterOf(pacemaker, (rule) => lineOf('pacemaker', 'rules', rule)) }),
    probes: probes.map(({ guest, attach }, rule) => ({
      guest,
      probes: Object.entries(attach).map(([name, given]) => ({
        name,
        parameters: given,
        where: lineOf('probes', rule, 'attach', name),
      })),
    })),
  };
}

function clusterOf(written: WrittenCluster, whereOf: (rule: number) => string): PacemakerConfig {
  return {
    commands: { timeLimitMs: clusterCommandMs },
    settings: {
      node: written.node,
      vms: written.vms,
      nodes: written.nodes,
      cooldownMs: written.cooldown,
      callsPerMinute: written.calls_per_minute,
      keepMs: written.keep,
      dumpMs: written.crash_dump,
      rules: written.rules.map(({ second_sign: secondSign, pid_file: pidFile, events, ...rule }, at) => ({
        ...rule,
        ...(pidFile === undefined ? {} : { pidFile }),
        // A process that a rule is about is one whose death matters, however it dies.
        events: events ?? ['crash', 'oom'],
        secondSign,
        where: whereOf(at),
      })),
    },
  };
}

const refused = (sentences: readonly string[]): VesperError =>
  new VesperError('USAGE', sentences.join('\n'), { data: { problems: sentences } });

/** A section with nothing in it, or with everything in it commented out, is as if it were not there. */
function withoutEmpty(written: unknown): unknown {
  if (written === null || written === '') return {};
  if (typeof written !== 'object' || Array.isArray(written)) return written;
  return Object.fromEntries(Object.entries(written).filter(([, value]) => value !== ''));
}

type Path = readonly PropertyKey[];

interface Problem {
  readonly offset: number;
  readonly sentence: string;
}

function problems(issue: z.core.$ZodIssue, document: Document.Parsed): Problem[] {
  const say = (path: Path, sentence: string): Problem => ({
    offset: offsetOf(document, path),
    sentence: path.length === 0 ? sentence : `${path.map(String).join('.')}: ${sentence}`,
  });
  switch (issue.code) {
    case 'unrecognized_keys': {
      const known = keysAt(issue.path);
      return issue.keys.map((key) => {
        const meant = nearest(key, known);
        const hint = meant === undefined ? '' : `did you mean ${meant}? `;
        return say([...issue.path, key], `unknown key: ${hint}Here may stand ${known.join(', ')}`);
      });
    }
    case 'invalid_type': {
      const missing = issue.input === undefined && !document.hasIn(issue.path);
      return [
        say(
          issue.path,
          missing ? `is missing: write ${kindOf(issue.expected)}` : `write ${kindOf(issue.expected)} here`,
        ),
      ];
    }
    case 'invalid_key':
      return issue.issues.map(({ message }) => say(issue.path, message));
    default:
      return [say(issue.path, issue.message)];
  }
}

function kindOf(expected: string): string {
  switch (expected) {
    case 'string':
      return 'one value';
    case 'array':
      return 'a list: [a, b], or lines that begin with "- "';
    default:
      return 'a mapping: lines of "key: value"';
  }
}

/** Where in the file a path of keys begins; of a key that is missing, where it should be. */
function offsetOf(document: Document.Parsed, path: Path): number {
  const parent = path.length < 2 ? document.contents : document.getIn(path.slice(0, -1), true);
  const last = path.at(-1);
  if (isMap(parent)) {
    const pair = parent.items.find((item) => isPair(item) && String(item.key) === String(last));
    if (isNode(pair?.key) && pair.key.range != null) return pair.key.range[0];
  }
  const found = path.length === 0 ? document.contents : document.getIn(path, true);
  if (isNode(found) && found.range != null) return found.range[0];
  if (path.length > 0) return offsetOf(document, path.slice(0, -1));
  return 0;
}

/** The keys that may stand in the mapping at a path. */
function keysAt(path: Path): readonly string[] {
  let here: unknown = schema;
  for (const key of path) {
    const inner = bare(here);
    if (inner instanceof z.ZodObject) here = (inner.shape as Record<PropertyKey, unknown>)[key];
    else if (inner instanceof z.ZodArray) here = inner.element;
    else if (inner instanceof z.ZodRecord) here = inner.valueType;
  }
  const last = bare(here);
  return last instanceof z.ZodObject ? Object.keys(last.shape) : [];
}

function bare(type: unknown): unknown {
  if (type instanceof z.ZodPipe) return bare(type.out);
  return type instanceof z.ZodOptional || type instanceof z.ZodDefault ? bare(type.unwrap()) : type;
}

// SPDX-License-Identifier: Apache-2.0

/** Brings the frontend into a guest, and takes it out again: one step after the other, each told. */

import type { ApiClient } from '../api/client.ts';
import { messageOf, VesperError } from '../error.ts';
import { type Action, perform } from './action.ts';
import { type DkmsTree, dkmsTree } from './dkms-tree.ts';
import { earlyFolder, earlyModule, earlyServes, fitsNot, removeEarly } from './early-module.ts';
import { type GuestFacts, guestFacts } from './guest-facts.ts';
import { earlyPlan, installPlan } from './install-plan.ts';
import type { Remote } from './remote.ts';
import { signatureProblem, updateProblem } from './requirements.ts';
import { RootShell } from './root-shell.ts';
import { detachAll, type Known, knownGuest, proveChannel, requireSameGuest } from './service-view.ts';
import { uninstallPlan } from './uninstall-plan.ts';

/** Who is told what happens. */
export interface Progress {
  step<T>(name: string, work: (detail: (text: string) => void) => Promise<T>): Promise<T>;
  /** What would be done. */
  plan(actions: readonly Action[]): void;
  /** What is to be said apart from the steps. */
  note(text: string): void;
}

export interface InstallOptions {
  readonly guest: string;
  readonly connect: () => Promise<Remote>;
  readonly api: ApiClient;
  readonly progress: Progress;
  readonly dryRun: boolean;
}

/** Installs the frontend that comes with this program. Does nothing where it is there already. */
export function install(options: InstallOptions): Promise<void> {
  const startedMs = performance.now();
  return visit(options, async (visit) => {
    const { progress, dryRun } = options;
    const { facts, tree } = visit;
    const plan = installPlan(facts, tree);
    const early = plan.length > 0 && earlyServes(facts);
    if (dryRun) {
      const before = early ? earlyPlan(facts, tree) : [];
      progress.plan([...before, ...(early ? installPlan({ ...facts, loadsAtBoot: true }, tree) : plan)]);
      const problem = signatureProblem(facts);
      if (problem !== undefined) progress.note(problem);
      return;
    }
    if (plan.length === 0) progress.note(`nothing to do: ${here(visit)}`);
    const ready = early && (await loadEarly(options, visit, startedMs));
    const actions = ready ? installPlan(await visit.look(), tree) : plan;
    try {
      for (const action of actions) {
        if (action.loads) refuseUnsigned(await visit.look());
        await visit.perform(action);
      }
    } catch (thrown) {
      if (ready) progress.note(onlyEarly(options.guest, facts.kernel));
      throw thrown;
    }
    const later = updateProblem(facts);
    if (later !== undefined) progress.note(later);
    await prove(options, visit);
  });
}

/** False: it could not be had, or that kernel does not take it; nothing is left of it then. */
async function loadEarly(options: InstallOptions, visit: Visit, startedMs: number): Promise<boolean> {
  const { progress, guest } = options;
  const { facts, tree } = visit;
  const module = await progress
    .step(`build it here, for ${facts.kernel}`, (detail) => earlyModule(facts.kernel, tree, detail))
    .catch((thrown: unknown) => progress.note(guestBuilds(messageOf(thrown))));
  if (module === undefined) return false;
  try {
    for (const action of earlyPlan(facts, tree, module)) await visit.perform(action);
  } catch (thrown) {
    if (!fitsNot(messageOf(thrown))) throw thrown;
    progress.note(guestBuilds(messageOf(thrown)));
    await visit.perform(removeEarly([earlyFolder(facts.kernel, tree)]));
    return false;
  }
  // What is wrong with the channel is no reason to do without DKMS: it is proven once more in the end.
  const proven = await prove(options, visit).then(
    () => visit.known.kind === 'guest',
    () => false,
  );
  const state = proven ? `ready: vesper attach ${guest} signal oom` : 'loaded';
  const seconds = ((performance.now() - startedMs) / 1e3).toFixed(0);
  progress.note(
    `After ${seconds} s ${guest} is ${state}. What follows is DKMS in the guest, which builds the frontend anew after a kernel update.`,
  );
  return true;
}

const guestBuilds = (why: string): string => `${why}\nSo the guest builds it first, which takes longer.`;

const onlyEarly = (guest: string, kernel: string): string =>
  `The frontend is loaded in ${guest} all the same, and will be at every boot of ${kernel}.`;

/** Removes the frontend and all that was written with it, after the service let go of it. */
export function uninstall(options: InstallOptions): Promise<void> {
  return visit(options, async (visit) => {
    const { progress, dryRun, api } = options;
    const { facts, tree, known } = visit;
    const actions = uninstallPlan(facts, tree);
    const probes =
      known.kind === 'guest' ? known.view.probes.filter(({ loaded }) => loaded).map(({ name }) => name) : [];
    if (dryRun) {
      if (probes.length > 0) progress.note(`would detach ${probes.join(', ')}`);
      progress.plan(actions);
      return;
    }
    if (actions.length === 0) return progress.note('nothing to do: nothing of the frontend is there');
    const left = facts.holders.filter((holder) => !probes.includes(holder));
    if (left.length > 0) {
      throw new VesperError(
        'REFUSED',
        `${left.join(', ')} ${left.length === 1 ? 'is' : 'are'} loaded on the frontend, and no service that answers here has ${left.length === 1 ? 'it' : 'them'}. Start the service (vesper serve) and run this again, or in the guest: sudo rmmod ${left.join(' ')}`,
      );
    }
    if (known.kind === 'guest' && probes.length > 0) {
      const { view } = known;
      await progress.step(`detach ${probes.join(', ')}`, async (detail) => {
        await detachAll(api, view);
        detail('they stay detached until they are attached again');
      });
    }
    for (const action of actions) await visit.perform(action);
    const after = uninstallPlan(await visit.look(), tree);
    if (after.length > 0) {
      throw new VesperError(
        'HOST',
        `not all is gone, this is still to be done: ${after.map(({ what }) => what).join('; ')}. Run the same command again`,
      );
    }
    progress.note('packages that were installed for it (dkms, compiler, headers) stay');
  });
}

interface Visit {
  readonly tree: DkmsTree;
  readonly facts: GuestFacts;
  readonly known: Known;
  look(): Promise<GuestFacts>;
  perform(action: Action): Promise<void>;
}

async function visit(
  { guest, connect, api, progress }: InstallOptions,
  work: (visit: Visit) => Promise<void>,
): Promise<void> {
  const tree = dkmsTree();
  const known = await knownGuest(api, guest);
  const remote = await progress.step(`reach ${guest}`, async (detail) => {
    const reached = await connect();
    detail(reached.where);
    for (const text of reached.details) detail(text);
    return reached;
  });
  try {
    const shell = await RootShell.open(remote);
    const look = (): Promise<GuestFacts> => guestFacts(shell, tree, remote.where);
    const facts = await progress.step('look at it', async (detail) => {
      const seen = await look();
      detail(`${seen.distribution}, kernel ${seen.kernel}, ${seen.architecture}`);
      if (known.kind === 'guest') requireSameGuest(known.view, seen, remote.where);
      return seen;
    });
    await work({
      tree,
      facts,
      known,
      look,
      perform: (action) => progress.step(action.what, () => perform(action, shell, remote)),
    });
  } finally {
    remote.close();
  }
}

/** DKMS has made its key by now. */
function refuseUnsigned(facts: GuestFacts): void {
  const problem = signatureProblem(facts);
  if (problem !== undefined)
    throw new VesperError('REFUSED', `It is built and installed, but not loaded: ${problem}`);
}

async function prove({ api, guest, progress }: InstallOptions, visit: Visit): Promise<void> {
  const { known, facts, tree } = visit;
  if (known.kind === 'none') {
    progress.note(
      `Not proven that a host reaches it: ${known.advice}. Then "vesper guests" shows ${guest} as active.`,
    );
    return;
  }
  await progress.step('prove the channel', async (detail) => {
    const view = await proveChannel(api, guest, facts, tree.version);
    detail(`${view.name} is ${view.state}: frontend ${view.frontend}, ${view.channel}`);
  });
}

const here = ({ facts, tree }: Visit): string =>
  `${tree.name} ${tree.version} is installed for ${facts.kernel}, loaded, and will be at boot`;

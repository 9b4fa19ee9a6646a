// SPDX-License-Identifier: Apache-2.0

/** `vesper install` and `uninstall` against a real sshd, a real guest agent, a real DKMS, and a real kernel to load into. */

import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { version } from '../../host/version.ts';
import { leftovers, ServiceProcess } from '../harness/rig.ts';
import { canBecomeGuest, Userland } from '../harness/userland.ts';

const minutes = 60_000;
const key = 'key';
const sealedKey = 'sealed';
const strangersKey = 'stranger';

let userland: Userland;
let service: ServiceProcess;
let name: string;
/** All files of the guest before anything was done, and what is not there any more when nothing is left. */
let pristine: string;

describe.skipIf(!canBecomeGuest)('vesper install', { timeout: 10 * minutes }, () => {
  beforeAll(async () => {
    userland = await Userland.start();
    ({ name } = userland.machine);
    service = new ServiceProcess(userland.machine, undefined, {
      environment: { SSH_AUTH_SOCK: userland.shared('keys.sock') },
    });
    await inside(`cd /run/outside
ssh-keygen -q -t ed25519 -N '' -f ${key}
ssh-keygen -q -t ed25519 -N secret -f ${sealedKey}
ssh-keygen -q -t ed25519 -N '' -f ${strangersKey}
cp ${key}.pub authorized_keys
ssh-agent -a /run/outside/keys.sock`);
    pristine = await files();
    await service.start();
  }, 10 * minutes);

  afterAll(async () => {
    await service?.close();
    await userland?.close();
    expect(leftovers()).toEqual([]);
  });

  test('a host whose key is not known, has changed or is revoked is refused, with what to type', async () => {
    const place = `[127.0.0.1]:${userland.port}`;
    const hosts = userland.shared('hosts');
    const look = async (line: string, ...more: readonly string[]) => {
      writeFileSync(hosts, line === '' ? '' : `${line}\n`);
      return vesper('install', '--known-hosts', hosts, '--dry-run', ...more);
    };
    const unknown = await look('');
    expect(unknown.status).toBe(4);
    expect(unknown.stderr).toContain(`the host key of ${place} is not known: ssh-ed25519 SHA256:`);
    expect(unknown.stderr).toContain('--accept-new');

    const stranger = readFileSync(userland.shared(`${strangersKey}.pub`), 'utf8').trim();
    const changed = await look(`${place} ${stranger}`, '--accept-new');
    expect(changed.status).toBe(4);
    expect(changed.stderr).toContain(`is not the one that is known (${hosts}:1)`);
    expect(changed.stderr).toContain(`ssh-keygen -f ${hosts} -R '${place}'`);

    const ed25519 = `${place} ${userland.hostKey('ed25519')}`;
    const revoked = await look(`${ed25519}\n@revoked ${ed25519}`, '--accept-new');
    expect(revoked.status).toBe(4);
    expect(revoked.stderr).toContain(`is revoked (${hosts}:2)`);

    const rsa = await look(`${place} ${userland.hostKey('rsa')}`);
    expect(rsa).toMatchObject({ status: 0, stderr: '' });
    expect(rsa.stdout).toContain('host key ssh-rsa SHA256:');

    writeFileSync(hosts, `${ed25519}\n`);
    await inside('ssh-keygen -q -H -f /run/outside/hosts');
    const hashed = await look(readFileSync(hosts, 'utf8').trim());
    expect(readFileSync(hosts, 'utf8')).toMatch(/^\|1\|/);
    expect(hashed).toMatchObject({ status: 0, stderr: '' });

    expect(await look('', '--accept-new')).toMatchObject({ status: 0 });
    expect(readFileSync(hosts, 'utf8')).toBe('');
  });

  test('whoever is not let in, or may not become root, is told why and what to type', async () => {
    const stranger = await vesper('install', ...accepted, '--identity', userland.shared(strangersKey));
    expect(stranger.status).toBe(4);
    expect(stranger.stderr).toContain('admin@127.0.0.1 does not let us in: it does not take');
    expect(stranger.stderr).toContain(`ssh-copy-id -p ${userland.port} admin@127.0.0.1`);

    const sealed = await vesper('install', '--identity', userland.shared(sealedKey));
    expect(sealed).toMatchObject({ status: 2 });
    expect(sealed.stderr).toContain('is encrypted: eval "$(ssh-agent)" && ssh-add');

    const powerless = await vesper('install', ...accepted, '--ssh', `guest@127.0.0.1:${userland.port}`);
    expect(powerless.status).toBe(4);
    expect(powerless.stderr).toContain('guest may not become root');
    expect(powerless.stderr).toContain(
      "echo 'guest ALL=(root) NOPASSWD: ALL' | sudo tee /etc/sudoers.d/vesper-install",
    );

    const closed = await vesper('install', '--ssh', 'root@127.0.0.1:1');
    expect(closed).toMatchObject({ status: 3 });
    expect(closed.stderr).toContain('nothing listens on 127.0.0.1 port 1');
  });

  test('the keys of an agent are tried', async () => {
    await inside(`SSH_AUTH_SOCK=/run/outside/keys.sock ssh-add -q /run/outside/${key}`);
    const { status, stdout } = await vesper(
      'install',
      ...accepted,
      ...['--identity', userland.shared(strangersKey), '--dry-run'],
    );
    expect(status).toBe(0);
    expect(stdout).toContain(`authenticated by the agent ${userland.shared('keys.sock')}`);
  });

  test('a guest that cannot load the module is told apart before anything is done', async () => {
    const uuid = join(userland.directory, 'sys/class/dmi/id/product_uuid');
    const own = readFileSync(uuid, 'utf8');
    try {
      writeFileSync(uuid, '01234567-89ab-cdef-0123-456789abcdef\n');
      const other = await vesper('install', ...accepted);
      expect(other.status).toBe(4);
      expect(other.stderr).toContain(`is not the guest ${name}`);
    } finally {
      writeFileSync(uuid, own);
    }
    const lockdown = join(userland.directory, 'sys/kernel/security/lockdown');
    mkdirSync(dirname(lockdown), { recursive: true });
    try {
      writeFileSync(lockdown, 'none [integrity] confidentiality\n');
      const locked = await vesper('install', ...accepted, '--dry-run');
      expect(locked.stdout).toContain('mokutil --import /var/lib/dkms/mok.pub');
    } finally {
      rmSync(join(userland.directory, 'sys/kernel'), { recursive: true });
    }
  });

  test('a dry run says what would be done, and does nothing', async () => {
    const { status, stdout } = await vesper('install', ...accepted, '--dry-run', '--json');
    expect(status).toBe(0);
    const plan = lines(stdout).find(({ type }) => type === 'plan') as unknown as {
      readonly actions: readonly { readonly what: string }[];
    };
    expect(plan.actions.map(({ what }) => what)).toEqual([
      `put there what this host built for ${userland.kernel.release}`,
      'have it loaded at boot',
      'load it',
      `copy the sources of vesper ${version}`,
      `build vesper ${version} for ${userland.kernel.release}`,
      `install vesper ${version} for ${userland.kernel.release}, and for every later kernel`,
      'load it',
    ]);
    expect(await files()).toBe(pristine);
    expect(userland.kernelCalls).toEqual([]);
  });

  test('an installation whose connection breaks is finished by the next one, in the place of an older version', async () => {
    await inside(oldVersion);
    expect(await userland.machine.check('cat /sys/module/vesper/version')).toBe('0.0.9');

    const broken = vesper('install', ...accepted);
    await expect
      .poll(() => existsSync(userland.path(`/var/lib/dkms/vesper/${version}/build/main.o`)), {
        timeout: 5 * minutes,
      })
      .toBe(true);
    userland.cut();
    const first = await broken;
    expect(first.status).toBe(3);
    expect(first.stderr).toContain('was lost');
    expect(first.stderr).toContain('run the same command again: it goes on where this one stopped');

    const { status, stdout, stderr } = await vesper('install', ...accepted, '--json');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const steps = lines(stdout).map(({ step }) => step);
    expect(steps).not.toContain(`copy the sources of vesper ${version}`);
    expect(steps).toContain('remove 0.0.9');
    expect(lines(stdout).at(-1)).toMatchObject({ step: 'prove the channel', ok: true });
    expect(await inside('dkms status')).toBe(
      `vesper/${version}, ${userland.kernel.release}, x86_64: installed`,
    );
    expect(await inside('ls -d /usr/src/vesper-*')).toBe(`/usr/src/vesper-${version}`);
    expect(await userland.machine.check('cat /sys/module/vesper/version')).toBe(version);
    expect(await service.api.guest(name)).toMatchObject({ state: 'active', frontend: version });
  });

  test('a second run finds nothing to do, and reloads nothing', async () => {
    const calls = userland.kernelCalls.length;
    const before = await files();
    const again = await vesper('install', ...accepted);
    expect(again).toMatchObject({ status: 0, stderr: '' });
    expect(again.stdout).toContain(`nothing to do: vesper ${version} is installed`);
    expect(userland.kernelCalls).toHaveLength(calls);
    expect(await files()).toBe(before);
  });

  test('what a kernel update runs installs it for that kernel', async () => {
    const { release } = userland.kernel;
    await inside(`dkms uninstall -m vesper -v ${version} -k ${release}`);
    await inside(`/etc/kernel/postinst.d/dkms ${release}`);
    expect(await inside('dkms status')).toContain(': installed');
    expect(await inside(`modinfo -k ${release} -F version vesper`)).toBe(version);
  });

  test('probes work on what was installed, and keep it from being removed while nobody can detach them', async () => {
    expect(await service.vesper('attach', name, 'signal')).toMatchObject({ status: 0 });
    // Loading by the host's hand does not go through modprobe: what sysfs says is looked up anew.
    await userland.mirror();
    await service.kill();
    const alone = await vesper('uninstall', ...accepted);
    expect(alone.status).toBe(4);
    expect(alone.stderr).toContain('signal is loaded on the frontend');
    expect(await inside('dkms status')).toContain('installed');
    await service.start();
    await service.guestUntil(
      ({ state, probes }) => state === 'active' && probes.some(({ loaded }) => loaded),
    );
  });

  test('uninstall detaches, unloads and leaves nothing', async () => {
    const { status, stdout, stderr } = await vesper('uninstall', ...accepted);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toContain('detach signal');
    expect(await userland.machine.run('test -d /sys/module/vesper')).toMatchObject({ status: 1 });
    expect(await files()).toBe(pristine);
    const again = await vesper('uninstall', ...accepted);
    expect(again).toMatchObject({ status: 0, stderr: '' });
    expect(again.stdout).toContain('nothing to do');
  });

  test('it is loaded, and reached, before the guest builds it; DKMS takes the place of what was built here', async () => {
    const { release } = userland.kernel;
    const calls = userland.kernelCalls.length;
    const make = userland.path('/usr/bin/make');
    renameSync(make, `${make}.away`);
    writeFileSync(make, '#!/bin/sh\nexit 1\n', { mode: 0o755 });
    const unready = await vesper('install', ...accepted).finally(() => renameSync(`${make}.away`, make));
    expect(unready.status).toBe(1);
    expect(unready.stdout).toMatch(
      new RegExp(`After \\d+ s ${name} is ready: vesper attach ${name} signal oom`),
    );
    expect(unready.stdout).toContain(`The frontend is loaded in ${name} all the same`);
    expect(unready.stderr).toContain(`build vesper ${version} for ${release} failed`);
    expect(await userland.machine.check('cat /sys/module/vesper/version')).toBe(version);
    expect(await service.vesper('attach', name, 'signal')).toMatchObject({ status: 0 });
    expect(await inside(`modinfo -k ${release} -F filename vesper`)).toContain('/updates/vesper/vesper.ko');
    expect(await inside('cat /etc/modules-load.d/vesper.conf')).toBe('vesper');

    const { status, stdout, stderr } = await vesper('install', ...accepted, '--json');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(lines(stdout).map(({ step }) => step)).not.toContain(`build it here, for ${release}`);
    expect(await inside('dkms status')).toContain(': installed');
    expect(await inside(`modinfo -k ${release} -F filename vesper`)).toContain('/updates/dkms/vesper.ko');
    expect(await inside(`ls /lib/modules/${release}/updates`)).toBe('dkms');
    // The same sources: the one that runs stays.
    expect(userland.kernelCalls.slice(calls).filter((call) => call.startsWith('rmmod'))).toEqual([]);
    expect(await service.api.guest(name)).toMatchObject({ state: 'active', probes: [{ loaded: true }] });
    const removed = await vesper('uninstall', ...accepted);
    expect(removed).toMatchObject({ status: 0, stderr: '' });
    expect(await files()).toBe(pristine);
  });

  test('the guest agent serves where there is no SSH', async () => {
    const agent = ['--agent', userland.agentSocket];
    const installed = await service.vesper('install', name, ...agent, '--json');
    expect(installed).toMatchObject({ status: 0, stderr: '' });
    const steps = lines(installed.stdout);
    expect(steps.at(-1)).toMatchObject({ step: 'prove the channel', ok: true });
    expect(JSON.stringify(steps.at(-1))).toContain(`${name} is active: frontend ${version}`);
    const order = steps.map(({ step }) => step);
    expect(order.indexOf('prove the channel')).toBeLessThan(
      order.indexOf(`build vesper ${version} for ${userland.kernel.release}`),
    );
    expect(await inside('dkms status')).toContain(': installed');
    const removed = await service.vesper('uninstall', name, ...agent);
    expect(removed).toMatchObject({ status: 0, stderr: '' });
    expect(await files()).toBe(pristine);
  });
});

const accepted = ['--accept-new'] as const;

/** Over SSH as admin with the key that is let in, unless other options say otherwise. */
function vesper(command: string, ...options: readonly string[]) {
  const has = (option: string): boolean => options.includes(option);
  const ssh = has('--ssh') ? [] : ['--ssh', `admin@127.0.0.1:${userland.port}`];
  const identity = has('--identity') ? [] : ['--identity', userland.shared(key)];
  const hosts = has('--known-hosts') ? [] : ['--known-hosts', userland.shared('known')];
  return service.vesper(command, name, ...ssh, ...identity, ...hosts, ...options);
}

async function inside(script: string): Promise<string> {
  const { status, output } = await userland.run(script);
  if (status !== 0) throw new Error(`${script} failed (${status}): ${output}`);
  return output;
}

const lines = (stdout: string): readonly Record<string, unknown>[] =>
  stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);

/** Names of what may be written; DKMS keeps the key that it made for good. */
const files = (): Promise<string> =>
  inside(
    'find /etc /usr/src /var/lib/dkms /usr/lib/modules /run /tmp -path /run/outside -prune -o -path "/usr/src/linux*" -prune -o -type f -print | grep -v -e /mok -e vesper-install.lock -e /modules.dep -e sudo | sort',
  );

const oldVersion = `mkdir /usr/src/vesper-0.0.9 && cd /usr/src/vesper-0.0.9
echo 'obj-m := vesper.o' >Kbuild
cat >vesper.c <<END
#include <linux/module.h>
static int __init start(void) { return 0; }
static void __exit stop(void) { }
module_init(start);
module_exit(stop);
MODULE_LICENSE("GPL");
MODULE_VERSION("0.0.9");
END
cat >dkms.conf <<END
PACKAGE_NAME=vesper
PACKAGE_VERSION=0.0.9
BUILT_MODULE_NAME[0]=vesper
DEST_MODULE_LOCATION[0]=/updates/dkms
AUTOINSTALL=yes
END
dkms install -m vesper -v 0.0.9 -k $(uname -r) && modprobe vesper`;

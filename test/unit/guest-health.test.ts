// SPDX-License-Identifier: Apache-2.0

import { expect, test } from 'vitest';
import { guestHealth, type Watched } from '../../host/api/guest-health.ts';

const session = {} as NonNullable<Watched['session']>;

test.each<[health: string, what: string, guest: Watched]>([
  ['alive', 'with a session', { state: 'active', kernelDied: false, session }],
  ['alive', 'of which a probe does not load', { state: 'degraded', kernelDied: false, session }],
  ['alive', 'without a relay', { state: 'reachable', kernelDied: false, session: undefined }],
  ['unknown', 'that boots', { state: 'running', kernelDied: false, session: undefined }],
  ['unknown', 'whose channel was cut', { state: 'lost', kernelDied: false, session: undefined }],
  ['silent', 'that does not answer', { state: 'lost', kernelDied: false, session }],
  ['dead', 'whose kernel panicked', { state: 'lost', kernelDied: true, session: undefined }],
  ['stopped', 'whose machine ended after that', { state: 'stopped', kernelDied: true, session: undefined }],
  ['unknown', 'nobody looked at yet', { state: 'undefined', kernelDied: false, session: undefined }],
])('%s: a guest %s', (health, _what, guest) => {
  expect(guestHealth(guest)).toBe(health);
});

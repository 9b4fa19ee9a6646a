// SPDX-License-Identifier: Apache-2.0

/** Events that the frontend itself writes, declared like those of any probe. */

import type { EventDeclaration } from '../probe/declaration.ts';
import { panicEvent, regionConstants } from '../wire/region.ts';

export const frontendName = 'frontend';

export const frontendEvents: readonly EventDeclaration[] = [
  {
    id: regionConstants.EVENT_PANIC.value,
    name: 'panic',
    severity: 'critical',
    doc: 'The kernel of the guest panics.',
    payloadBytes: panicEvent.size,
    fields: [
      {
        name: 'message',
        type: 'text',
        offset: panicEvent.offsets.message,
        size: panicEvent.fields.message.size,
        role: 'detail',
        unit: 'none',
        doc: panicEvent.fields.message.doc,
        values: undefined,
      },
    ],
  },
];

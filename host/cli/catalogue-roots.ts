// SPDX-License-Identifier: Apache-2.0

import { fileURLToPath } from 'node:url';

/** Where `make build` puts probe images: `<kernel release>/<probe>.ko`. */
export function builtCatalogueRoots(): readonly string[] {
  return [fileURLToPath(new URL('../../build', import.meta.url))];
}

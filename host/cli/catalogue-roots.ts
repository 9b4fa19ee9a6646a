// SPDX-License-Identifier: Apache-2.0

import { fileURLToPath } from 'node:url';

/** Where `make build` puts probe images: `<kernel release>/<probe>.ko`. */
export const builtCatalogueRoots: readonly string[] = [fileURLToPath(new URL('../../build', import.meta.url))];

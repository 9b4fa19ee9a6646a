// SPDX-License-Identifier: Apache-2.0

import { moduleRoots } from '../kernel/project.ts';

/** Where `make build` and `vesper build` put probe images: `<kernel release>/<probe>.ko`. */
export function builtCatalogueRoots(): readonly string[] {
  return moduleRoots();
}

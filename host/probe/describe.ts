// SPDX-License-Identifier: Apache-2.0

/** Images and probes as plain JSON values: the stable shape that `--json` and the API give. 64-bit values are strings. */

import type { CatalogueProbe } from './catalogue.ts';
import type { FieldDeclaration, ProbeImage } from './declaration.ts';
import { probeName } from './declaration.ts';

/** What an image declares. */
export function describeImage(image: ProbeImage) {
  return {
    name: probeName(image),
    doc: image.declaration?.doc ?? image.description,
    kind: image.kind,
    module: image.name,
    version: image.version,
    license: image.license,
    author: image.author,
    declared: image.declaration !== undefined,
    events: (image.declaration?.events ?? []).map((event) => ({
      id: event.id,
      name: event.name,
      severity: event.severity,
      doc: event.doc,
      payload_bytes: event.payloadBytes,
      fields: event.fields.map(describeField),
    })),
    points: (image.declaration?.points ?? []).map(({ name, kind, required, doc }) => ({
      name,
      kind,
      required,
      doc,
    })),
    parameters: image.parameters.map(({ name, type, doc }) => ({ name, type, doc })),
  };
}

/** How an image was built. */
export function describeBuild(image: ProbeImage) {
  return {
    kernel_release: image.vermagic.split(' ')[0] ?? '',
    vermagic: image.vermagic,
    architecture: image.architecture,
    sha256: image.sha256,
    bytes: image.bytes.length,
    signed: image.signed,
  };
}

/** A probe of the catalogue, as its newest build declares it, and its builds. */
export function describeProbe({ images }: CatalogueProbe) {
  return {
    ...describeImage(images[0].image),
    builds: images.map(({ image, kernelRelease, path }) => ({
      ...describeBuild(image),
      kernel_release: kernelRelease,
      path,
    })),
  };
}

function describeField({ name, type, offset, size, role, unit, doc, values }: FieldDeclaration) {
  return {
    name,
    type,
    offset,
    size,
    role,
    unit,
    doc,
    values:
      values === undefined
        ? null
        : {
            set: values.name,
            kind: values.kind,
            names: values.values.map((entry) => ({ value: entry.value.toString(), name: entry.name })),
          },
  };
}

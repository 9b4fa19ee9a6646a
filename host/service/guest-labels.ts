// SPDX-License-Identifier: Apache-2.0

/** The label `guest`: the guest's name, with the beginning of its UUID where another one has that name already. */
export class GuestLabels {
  readonly #given = new Map<string, { readonly name: string; readonly label: string }>();

  of({ name, uuid }: { readonly name: string; readonly uuid: string }): string {
    const given = this.#given.get(uuid);
    if (given?.name === name) return given.label;
    const taken = [...this.#given].some(([other, { label }]) => other !== uuid && label === name);
    const label = taken ? `${name} (${uuid.slice(0, 8)})` : name;
    this.#given.set(uuid, { name, label });
    return label;
  }

  forget(uuid: string): void {
    this.#given.delete(uuid);
  }
}

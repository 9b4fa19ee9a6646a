// SPDX-License-Identifier: Apache-2.0

/** XML as a tree in which elements of one name are always a list, however many there are. */

import { XMLParser } from 'fast-xml-parser';
import { messageOf, VesperError } from '../../error.ts';

/** As the parser gives it with `preserveOrder`: one key is the name, `:@` holds the attributes. */
type Raw = Readonly<Record<string, unknown>>;

const attributes = ':@';
const content = '#text';

const parser = new XMLParser({
  preserveOrder: true,
  ignoreAttributes: false,
  attributeNamePrefix: '',
  parseAttributeValue: false,
  parseTagValue: false,
});

export class Element {
  readonly name: string;
  readonly #raw: Raw;

  constructor(raw: Raw) {
    this.#raw = raw;
    this.name = Object.keys(raw).find((key) => key !== attributes) ?? '';
  }

  /** An attribute. */
  text(name: string): string | undefined {
    const value = (this.#raw[attributes] as Raw | undefined)?.[name];
    return value === undefined ? undefined : String(value);
  }

  /** The text in it, without that of elements in it. */
  get content(): string {
    return this.#inner()
      .map((raw) => (content in raw ? String(raw[content]) : ''))
      .join('');
  }

  children(name?: string): readonly Element[] {
    return this.#inner()
      .filter((raw) => (name === undefined ? !(content in raw) : name in raw))
      .map((raw) => new Element(raw));
  }

  child(name: string): Element | undefined {
    return this.children(name)[0];
  }

  /** All of that name, at any depth, none of them in another. */
  descendants(name: string): readonly Element[] {
    return this.children().flatMap((child) => (child.name === name ? [child] : child.descendants(name)));
  }

  #inner(): readonly Raw[] {
    const inner = this.#raw[this.name];
    return Array.isArray(inner) ? (inner as readonly Raw[]) : [];
  }
}

/** The root element; throws PROTOCOL where it is another one, or where it is no XML. */
export function parseXml(xml: string, root: string): Element {
  let parsed: readonly Raw[];
  try {
    parsed = parser.parse(xml, true) as readonly Raw[];
  } catch (thrown) {
    throw new VesperError('PROTOCOL', `this is no XML: ${messageOf(thrown)}`, { cause: thrown });
  }
  const found = parsed.map((raw) => new Element(raw)).find(({ name }) => name === root);
  if (found === undefined) throw new VesperError('PROTOCOL', `this XML has no <${root}>`);
  return found;
}

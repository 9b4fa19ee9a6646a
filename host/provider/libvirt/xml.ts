// SPDX-License-Identifier: Apache-2.0

/** Reading XML: elements as lists by their names, every value the text that is written. */

import { XMLParser } from 'fast-xml-parser';

const parser = new XMLParser({
  ignoreAttributes: false,
  attributeNamePrefix: '@',
  alwaysCreateTextNode: true,
  parseTagValue: false,
  parseAttributeValue: false,
  removeNSPrefix: true,
  ignoreDeclaration: true,
  ignorePiTags: true,
  isArray: (_name, _path, _leaf, isAttribute) => !isAttribute,
});

type Parsed = { readonly [name: string]: string | readonly Parsed[] | undefined };

export class Element {
  readonly #parsed: Parsed;

  constructor(parsed: Parsed) {
    this.#parsed = parsed;
  }

  get text(): string {
    const text = this.#parsed['#text'];
    return typeof text === 'string' ? text.trim() : '';
  }

  attribute(name: string): string | undefined {
    const value = this.#parsed[`@${name}`];
    return typeof value === 'string' ? value : undefined;
  }

  /** Elements of that name directly below this one. */
  all(name: string): readonly Element[] {
    const found = this.#parsed[name];
    return Array.isArray(found) ? found.map((one: Parsed) => new Element(one)) : [];
  }

  /** The first at the end of a path of names; undefined where a part of it is missing. */
  find(...path: readonly string[]): Element | undefined {
    return path.reduce<Element | undefined>((here, name) => here?.all(name)[0], this);
  }

  /** Everything directly below this one, whatever it is called. */
  children(): readonly Element[] {
    return Object.keys(this.#parsed)
      .filter((name) => !/^[@#]/.test(name))
      .flatMap((name) => this.all(name));
  }
}

/** The element that the document consists of; throws an Error where it is not well-formed or another one. */
export function parseXml(text: string, root: string): Element {
  const found = new Element(parser.parse(text, true) as Parsed).find(root);
  if (found === undefined) throw new Error(`no <${root}> in ${JSON.stringify(text.slice(0, 80))}`);
  return found;
}

const entities: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  "'": '&apos;',
  '"': '&quot;',
};

export const escapeXml = (text: string): string => text.replace(/[&<>'"]/g, (one) => entities[one] ?? one);

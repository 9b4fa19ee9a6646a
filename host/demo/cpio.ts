// SPDX-License-Identifier: Apache-2.0

/** A file, symbolic link or folder of an initramfs. */
export type CpioEntry =
  | { readonly path: string; readonly mode?: number; readonly content: Uint8Array }
  | { readonly path: string; readonly link: string }
  | { readonly path: string; readonly directory: true };

/**
 * A cpio archive in the "newc" format the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).
 * The same entries always make the same bytes. Parent folders are added.
 */
export function cpioArchive(entries: readonly CpioEntry[]): Buffer {
  const parts: Uint8Array[] = [];
  const folders = new Set<string>();
  let inode = 0;

  const append = (path: string, mode: number, content: Uint8Array) => {
    const name = Buffer.from(`${path}\0`);
    const fields = [inode++, mode, 0, 0, 1, 0, content.length, 0, 0, 0, 0, name.length, 0];
    const header = `070701${fields.map((value) => value.toString(16).padStart(8, '0')).join('')}`;
    parts.push(
      Buffer.from(header),
      name,
      padding(header.length + name.length),
      content,
      padding(content.length),
    );
  };
  const appendFolders = (path: string) => {
    const slash = path.lastIndexOf('/');
    if (slash < 0 || folders.has(path.slice(0, slash))) return;
    appendFolders(path.slice(0, slash));
    folders.add(path.slice(0, slash));
    append(path.slice(0, slash), 0o040755, new Uint8Array());
  };

  for (const entry of entries) {
    const path = entry.path.replace(/^\/+/, '');
    appendFolders('directory' in entry ? `${path}/` : path);
    if ('link' in entry) append(path, 0o120777, Buffer.from(entry.link));
    else if ('content' in entry) append(path, 0o100000 | (entry.mode ?? 0o644), entry.content);
  }
  append('TRAILER!!!', 0, new Uint8Array());
  return Buffer.concat(parts);
}

function padding(length: number): Uint8Array {
  return new Uint8Array((4 - (length % 4)) % 4);
}

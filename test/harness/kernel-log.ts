// SPDX-License-Identifier: Apache-2.0

/** What a guest's kernel complains of on its console. */

const complaint =
  /BUG:|BUG [a-z]|WARNING:|Oops|general protection fault|stack-protector|refcount_t:|soft lockup|hard LOCKUP|blocked for more than|KASAN|Redzone|Poison overwritten|Object padding|unable to handle/;
const endOfReport = /---\[ end (trace|Kernel panic)/;
/** Lines of one report, with its call trace. */
const mostLines = 60;

/** What says that something went wrong, each with the lines that follow it; an OOM killer's report is none. */
export function kernelComplaints(console: string): readonly string[] {
  const lines = console.split('\n');
  const reports: string[] = [];
  for (let at = 0; at < lines.length; ) {
    if (!complaint.test(lines[at] as string)) {
      at += 1;
      continue;
    }
    const report = lines.slice(at, at + mostLines);
    const end = report.findIndex((line) => endOfReport.test(line)) + 1 || report.length;
    reports.push(report.slice(0, end).join('\n'));
    at += end;
  }
  return reports;
}

/** Throws with the complaints in its message, which is all that a report of many tests shows. */
export function expectNoComplaints(console: string): void {
  const complaints = kernelComplaints(console);
  if (complaints.length > 0) throw new Error(`the guest's kernel complains:\n${complaints.join('\n\n')}`);
}

// What a check found, in words. Everything here is a function of its arguments.
//
// "Not checked" is never worded as "nothing found", and "nothing found" is never worded as "original".

import * as vscode from "vscode";
import type { Checked, CheckResult, Match, Source } from "./protocol";

/** More sources than these would make a hover that nobody reads; their number is named instead. */
const SHOWN_SOURCES = 5;

const CLASSES: Readonly<Record<Match["class"], string>> = {
  rare: "rare: it stands in few places, so its licence is likely to matter",
  common: "common: it stands in very many places, as idioms and licence headers do",
  own: "from your own repositories",
};

/** Whether a match is marked: what the policy allows is not. */
export function isMarked(match: Match): boolean {
  return match.decision !== "allow";
}

/** One line for the end of a marked line: `cpython Lib/textwrap.py · PSF-2.0 +2`. */
export function label(match: Match): string {
  const possibly = match.kind === "renamed" ? "possibly " : "";
  const [first] = match.sources;
  if (first === undefined) {
    return `${possibly}in the training data`;
  }
  const more = match.source_count > 1 ? ` +${match.source_count - 1}` : "";
  const warning = first.license_conflict ? " ⚠" : "";
  const blocked = match.decision === "block" ? " · blocked by the policy" : "";
  return `${possibly}${first.name} ${first.path} · ${licences(first)}${warning}${more}${blocked}`;
}

/** The hover of a marked passage: how much matches, how rare it is, and each source with licence, lines and link. */
export function hover(match: Match): vscode.MarkdownString {
  const found = match.kind === "renamed" ? "Possibly in the training data, under other names" : "Found in the training data";
  const hidden = match.source_count - Math.min(match.sources.length, SHOWN_SOURCES);
  const text = [
    `**${found}**\n\n`,
    `${match.run.toLocaleString("en")} matching characters, white space not counted; ${CLASSES[match.class]}.\n\n`,
    ...match.sources.slice(0, SHOWN_SOURCES).map(sourceLine),
    hidden > 0 ? `\n…and ${match.class === "common" ? "at least " : ""}${plural(hidden, "more source")}.\n` : "",
  ];
  return new vscode.MarkdownString(text.join(""), true);
}

/** One sentence or two about a check that a person asked for. */
export function summary({ checked, matches }: CheckResult): string {
  if (checked.state === "not_checked") {
    return notChecked(checked.reason ?? "the server gave no reason. See the log (Starcite: Show log).");
  }
  if (matches.length > 0) {
    const marked = matches.filter(isMarked);
    const told = marked.length > 0 ? marked : matches;
    const sources = [...new Set(told.map(label))];
    const more = sources.length > 1 ? `, and ${sources.length - 1} more` : "";
    const allowed = marked.length > 0 ? "" : " that the policy allows";
    return `${plural(told.length, "passage")} found in the training data${allowed}: ${sources[0] ?? ""}${more}.`;
  }
  return `Checked against ${scope(checked)}: nothing found (this does not mean that it is original).${coverage(checked)}`;
}

export function notChecked(reason: string): string {
  return `Not checked: ${reason}`;
}

/** Makes text that came from outside show as itself in Markdown: no markup, no link, no `$(icon)`. */
export function escape(text: string): string {
  return text.replaceAll(/[\\`*_{}[\]()#+\-!~|<>&$]/g, "\\$&").replaceAll(/\s+/g, " ");
}

function sourceLine(source: Source): string {
  const place = escape(`${source.path}:${source.start_line}–${source.end_line}`);
  // Only web addresses become links: a `command:` or `file:` address would come out of somebody else's repository.
  const linked = /^https?:\/\/[^\s<>]+$/.test(source.url) ? `[${place}](<${source.url}>)` : place;
  const revision = source.revision === "" ? "" : ` ${escape(source.revision)}`;
  const conflict = source.license_conflict ? " $(warning) its licence statements contradict each other" : "";
  return `- **${escape(source.name)}**${revision} · ${linked} · **${escape(licences(source))}**${conflict}\n`;
}

function licences(source: Source): string {
  return source.licenses.length === 0 ? "licence unknown" : source.licenses.join(", ");
}

function scope(checked: Checked): string {
  const documents = checked.indexes.reduce((sum, index) => sum + index.documents, 0);
  const names = checked.indexes.map((index) => `'${index.name}'`).join(", ");
  return `${plural(documents, "document")} of ${names}`;
}

function coverage(checked: Checked): string {
  switch (checked.covers_model) {
    case "full":
      return "";
    case "partial":
      return " These are a part of the model's training data.";
    default:
      return " These are not known to be the model's training data.";
  }
}

function plural(count: number, noun: string): string {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

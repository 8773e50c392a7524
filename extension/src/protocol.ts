// What the server says beyond standard LSP: `starcite/check`, `starcite/status`, and the `references` of a suggestion.

import type { Range } from "vscode-languageclient/node";

/** Where a matching text stands in the training data. */
export interface Source {
  readonly name: string;
  readonly revision: string;
  readonly path: string;
  readonly start_line: number;
  readonly end_line: number;
  readonly url: string;
  readonly licenses: readonly string[];
  readonly license_conflict: boolean;
}

/** A passage that also stands in the training data. `run` counts its characters without white space. */
export interface Match {
  readonly kind: "verbatim" | "renamed";
  readonly run: number;
  readonly class: "rare" | "common" | "own";
  /** What the repository's policy says of it: shown without a mark, shown with one, not to be there. */
  readonly decision: "allow" | "annotate" | "block";
  readonly source_count: number;
  readonly sources: readonly Source[];
}

/** A match of `starcite/check`, which has a place in the document. */
export interface DocumentMatch extends Match {
  readonly range: Range;
}

/** What a text was checked against, or why it was not. */
export interface Checked {
  readonly state: "checked" | "not_checked";
  readonly reason: string | null;
  readonly indexes: readonly { readonly name: string; readonly documents: number }[];
  readonly covers_model: "full" | "partial" | "unknown" | "none";
}

export interface CheckResult {
  readonly checked: Checked;
  readonly matches: readonly DocumentMatch[];
}

export type State = "starting" | "downloading" | "ready" | "busy" | "degraded" | "off";

/** The server's condition; `action` is what the user can do about it, empty when there is nothing to do. */
export interface ServerStatus {
  readonly state: State;
  readonly model: string;
  readonly index: string;
  readonly message: string;
  readonly action: string;
}

/** One item of `textDocument/inlineCompletion`, as the server sends it. */
export interface SuggestedItem {
  readonly insertText: string | { readonly value: string };
  readonly references?: readonly Match[];
}

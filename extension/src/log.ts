// The "Starcite" output channel: what the server writes, and one line for each suggestion that stands in the training data.

import * as vscode from "vscode";
import { label } from "./describe";
import type { SuggestedItem } from "./protocol";

export function createLog(): vscode.LogOutputChannel {
  return vscode.window.createOutputChannel("Starcite", { log: true });
}

/** Logs the references of suggestions: of all that were offered, whether or not they are accepted later. */
export function logReferences(log: vscode.LogOutputChannel, items: readonly SuggestedItem[]): void {
  for (const item of items) {
    for (const match of item.references ?? []) {
      log.info(`A suggestion stands in the training data: ${label(match)} (${match.run} characters, ${match.class}).`);
    }
  }
}

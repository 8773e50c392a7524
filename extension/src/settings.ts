// The settings of `starcite.*`. Their names, defaults and limits stand in package.json and nowhere else on this side.

import * as vscode from "vscode";

export const SECTION = "starcite";

/** Settings that only this side reads: the server is already running when it could learn them. */
const CLIENT_ONLY = ["server", "trace"];

/** The nested object that the server takes as `initializationOptions`; it judges the values itself. */
export function serverSettings(): Record<string, unknown> {
  const all = vscode.workspace.getConfiguration().get<Record<string, unknown>>(SECTION, {});
  const shared = Object.entries(all).filter(([key]) => !CLIENT_ONLY.includes(key));
  return { [SECTION]: Object.fromEntries(shared) };
}

/** The server's path as the user set it; empty for the `starcite` on PATH. */
export function serverPath(): string {
  return vscode.workspace.getConfiguration(SECTION).get("server.path", "").trim();
}

export function completionsEnabled(): boolean {
  return vscode.workspace.getConfiguration(SECTION).get("enable", true);
}

/** Turns completions on or off where that has an effect: a value of the workspace hides the user's own. */
export async function toggleCompletions(): Promise<void> {
  const settings = vscode.workspace.getConfiguration(SECTION);
  const inWorkspace = settings.inspect("enable")?.workspaceValue !== undefined;
  const target = inWorkspace ? vscode.ConfigurationTarget.Workspace : vscode.ConfigurationTarget.Global;
  await settings.update("enable", !completionsEnabled(), target);
}

// The status bar item: one look says whether completions come, the tooltip says why not and what to do.

import * as vscode from "vscode";
import { escape, isMarked, label } from "./describe";
import type { Match, ServerStatus, State, SuggestedItem } from "./protocol";
import { completionsEnabled } from "./settings";

const ICONS: Readonly<Record<State, string>> = {
  starting: "$(loading~spin)",
  downloading: "$(cloud-download)",
  ready: "$(check)",
  busy: "$(loading~spin)",
  degraded: "$(warning)",
  off: "$(circle-slash)",
};

const WORDS: Readonly<Record<State, string>> = {
  starting: "starting",
  downloading: "downloading the model",
  ready: "ready",
  busy: "completing",
  degraded: "working with less than it should",
  off: "off",
};

/** The commands that the item offers when it is clicked, in the order of how often they are wanted. */
const MENU: readonly { readonly label: string; readonly command: string }[] = [
  { label: "$(references) Check selection against training data", command: "starcite.checkSelection" },
  { label: "$(clear-all) Clear training-data marks", command: "starcite.clearReferences" },
  { label: "$(circle-slash) Turn completions on or off", command: "starcite.toggle" },
  { label: "$(debug-restart) Restart server", command: "starcite.restart" },
  { label: "$(output) Show log", command: "starcite.showLog" },
  { label: "$(gear) Open settings", command: "starcite.openSettings" },
];

export class Status implements vscode.Disposable {
  private readonly item = vscode.window.createStatusBarItem("starcite.status", vscode.StatusBarAlignment.Right, 100);
  private server: ServerStatus = { state: "starting", model: "", index: "", message: "", action: "" };
  private references: readonly Match[] = [];

  constructor() {
    this.item.name = "Starcite";
    this.item.command = "starcite.menu";
    this.draw();
    this.item.show();
  }

  /** Shows what the server, or the lack of one, says of itself. */
  set(server: ServerStatus): void {
    this.server = server;
    this.draw();
  }

  /** Shows a condition that is this side's to tell; the model and the index stay as last heard. */
  setState(state: State, message = "", action = ""): void {
    this.set({ ...this.server, state, message, action });
  }

  /** Names the sources of the newest suggestions; no references take the earlier ones away. */
  setSuggestions(items: readonly SuggestedItem[]): void {
    this.references = items.flatMap((item) => item.references ?? []).filter(isMarked);
    this.draw();
  }

  /** Draws anew; also called when the settings changed. */
  draw(): void {
    const { state } = this.server;
    const paused = state !== "off" && !completionsEnabled();
    const icon = paused ? ICONS.off : this.references.length > 0 && state === "ready" ? "$(references)" : ICONS[state];
    this.item.text = `${icon} Starcite`;
    this.item.accessibilityInformation = { label: `Starcite: ${WORDS[state]}` };
    this.item.backgroundColor = state === "degraded" ? new vscode.ThemeColor("statusBarItem.warningBackground") : undefined;
    this.item.tooltip = tooltip(this.server, this.references, paused);
  }

  dispose(): void {
    this.item.dispose();
  }
}

/** Lets the user pick one of Starcite's commands. */
export async function showMenu(): Promise<void> {
  const picked = await vscode.window.showQuickPick(MENU, { placeHolder: "Starcite" });
  if (picked !== undefined) {
    await vscode.commands.executeCommand(picked.command);
  }
}

function tooltip(server: ServerStatus, references: readonly Match[], paused: boolean): vscode.MarkdownString {
  const lines = [
    `**Starcite** · ${WORDS[server.state]}`,
    paused ? "Completions are turned off." : "",
    escape(server.message),
    server.action === "" ? "" : `$(lightbulb) ${escape(server.action)}`,
    server.model === "" ? "" : `Model: ${escape(server.model)}`,
    server.index === "" ? "" : `Training-data index: ${escape(server.index)}`,
    ...references.map((match) => `$(references) The suggestion stands in ${escape(label(match))}`),
  ];
  return new vscode.MarkdownString(lines.filter((line) => line !== "").join("\n\n"), true);
}

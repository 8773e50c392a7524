// Wires the parts together; what each does stands in its own file, and all judgement is the server's.

import * as vscode from "vscode";
import { Server } from "./client";
import { createLog } from "./log";
import { checkSelection, Marks } from "./references";
import { SECTION, toggleCompletions } from "./settings";
import { showMenu, Status } from "./status";

let server: Server | undefined;

export async function activate(context: vscode.ExtensionContext): Promise<void> {
  const log = createLog();
  const status = new Status();
  const marks = new Marks();
  const started = new Server(log, status);
  server = started;
  const { registerCommand, registerTextEditorCommand } = vscode.commands;
  context.subscriptions.push(
    log,
    status,
    marks,
    registerTextEditorCommand("starcite.checkSelection", (editor) => { void checkSelection(editor, started, marks); }),
    registerCommand("starcite.clearReferences", () => { marks.clear(); }),
    registerCommand("starcite.restart", () => started.restart()),
    registerCommand("starcite.showLog", () => { log.show(); }),
    registerCommand("starcite.toggle", toggleCompletions),
    registerCommand("starcite.menu", showMenu),
    registerCommand("starcite.openSettings", () => vscode.commands.executeCommand("workbench.action.openSettings", `${SECTION}.`)),
    vscode.workspace.onDidChangeConfiguration((event) => {
      if (event.affectsConfiguration(`${SECTION}.server.path`)) {
        void started.restart();
      }
      if (event.affectsConfiguration(`${SECTION}.enable`)) {
        status.draw();
      }
    }),
  );
  await started.start();
}

export async function deactivate(): Promise<void> {
  await server?.stop();
}

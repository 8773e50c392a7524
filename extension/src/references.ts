// Marks on passages that stand in the training data, and the command that finds them.
//
// A mark stays until its text is edited, it is cleared, or its text is checked again: not until a timer runs out.

import * as vscode from "vscode";
import type { PlacedResult, Server } from "./client";
import { hover, isMarked, label, notChecked, summary } from "./describe";
import type { Match } from "./protocol";

/** A marked passage: UTF-16 offsets into its document, half-open. */
export interface Mark {
  readonly start: number;
  readonly end: number;
  readonly match: Match;
}

/** A change of a document as `TextDocumentContentChangeEvent` tells it. */
export interface Edit {
  readonly rangeOffset: number;
  readonly rangeLength: number;
  readonly text: string;
}

/** Where the marks are after an edit: moved when it lies before them, gone when it touches their text. */
export function afterEdit(marks: readonly Mark[], edit: Edit): Mark[] {
  const editEnd = edit.rangeOffset + edit.rangeLength;
  const moved = edit.text.length - edit.rangeLength;
  return marks.flatMap((mark) => {
    if (edit.rangeOffset >= mark.end) {
      return [mark];
    }
    return editEnd <= mark.start ? [{ ...mark, start: mark.start + moved, end: mark.end + moved }] : [];
  });
}

/** The marks of all open documents, and their drawing in the editors that show them. */
export class Marks implements vscode.Disposable {
  private readonly byDocument = new Map<string, readonly Mark[]>();
  private readonly passage = vscode.window.createTextEditorDecorationType({
    backgroundColor: new vscode.ThemeColor("starcite.referenceBackground"),
    overviewRulerColor: new vscode.ThemeColor("starcite.referenceRuler"),
    overviewRulerLane: vscode.OverviewRulerLane.Right,
    rangeBehavior: vscode.DecorationRangeBehavior.ClosedClosed,
  });
  // The label stands at the end of the passage's first line, which is on the screen when its last one may not be.
  private readonly label = vscode.window.createTextEditorDecorationType({
    rangeBehavior: vscode.DecorationRangeBehavior.ClosedClosed,
    after: { color: new vscode.ThemeColor("starcite.referenceLabel"), margin: "0 0 0 3ch", fontStyle: "italic" },
  });
  private readonly subscriptions = [
    vscode.workspace.onDidChangeTextDocument((event) => { this.edited(event); }),
    vscode.workspace.onDidCloseTextDocument((document) => { this.byDocument.delete(document.uri.toString()); }),
    vscode.window.onDidChangeVisibleTextEditors((editors) => { editors.forEach((editor) => { this.draw(editor); }); }),
  ];

  /** Puts new marks in place of all that overlap the checked part of a document. */
  replace(document: vscode.TextDocument, checked: Pick<Mark, "start" | "end">, found: readonly Mark[]): void {
    const outside = this.of(document).filter((mark) => mark.end <= checked.start || mark.start >= checked.end);
    this.set(document, [...outside, ...found]);
  }

  clear(): void {
    this.byDocument.clear();
    vscode.window.visibleTextEditors.forEach((editor) => { this.draw(editor); });
  }

  of(document: vscode.TextDocument): readonly Mark[] {
    return this.byDocument.get(document.uri.toString()) ?? [];
  }

  dispose(): void {
    vscode.Disposable.from(this.passage, this.label, ...this.subscriptions).dispose();
  }

  private edited({ document, contentChanges }: vscode.TextDocumentChangeEvent): void {
    const marks = this.of(document);
    if (marks.length > 0) {
      this.set(document, contentChanges.reduce(afterEdit, [...marks]));
    }
  }

  private set(document: vscode.TextDocument, marks: readonly Mark[]): void {
    this.byDocument.set(document.uri.toString(), marks);
    vscode.window.visibleTextEditors.filter((editor) => editor.document === document).forEach((editor) => { this.draw(editor); });
  }

  private draw(editor: vscode.TextEditor): void {
    const { document } = editor;
    const marks = this.of(document);
    editor.setDecorations(this.passage, marks.map(({ start, end, match }) => ({
      range: new vscode.Range(document.positionAt(start), document.positionAt(end)),
      hoverMessage: hover(match),
    })));
    editor.setDecorations(this.label, marks.map(({ start, match }) => {
      const { end } = document.lineAt(document.positionAt(start)).range;
      return { range: new vscode.Range(end, end), renderOptions: { after: { contentText: label(match) } } };
    }));
  }
}

/** Checks the selection, or the whole document when nothing is selected, and marks what was found. */
export async function checkSelection(editor: vscode.TextEditor, server: Server, marks: Marks): Promise<void> {
  const { document, selection } = editor;
  const range = selection.isEmpty ? undefined : new vscode.Range(selection.start, selection.end);
  const { version } = document;
  try {
    const progress = { location: vscode.ProgressLocation.Window, title: "Starcite: checking" };
    const result = await vscode.window.withProgress(progress, () => server.check(document, range));
    if (document.version !== version) {
      throw new Error("the text was edited while it was checked. Check it again.");
    }
    if (result.checked.state === "not_checked") {
      void warn(summary(result));
      return;
    }
    const offsets = (place: vscode.Range) => ({ start: document.offsetAt(place.start), end: document.offsetAt(place.end) });
    const whole = { start: 0, end: document.getText().length };
    const found = result.matches.filter(isMarked).map((match) => ({ ...offsets(match.range), match }));
    marks.replace(document, range === undefined ? whole : offsets(range), found);
    void tell(result, editor);
  } catch (error) {
    void warn(notChecked(error instanceof Error ? error.message : String(error)));
  }
}

// Each message has a button also because VS Code cuts one without to a single line, and the end of ours matters.

async function tell(result: PlacedResult, editor: vscode.TextEditor): Promise<void> {
  const first = result.matches.find(isMarked) ?? result.matches[0];
  const action = first === undefined ? "Choose indexes" : "Show passage";
  if ((await vscode.window.showInformationMessage(summary(result), action)) !== action) {
    return;
  }
  if (first === undefined) {
    await vscode.commands.executeCommand("workbench.action.openSettings", "starcite.attribution.indexes");
  } else {
    editor.revealRange(first.range, vscode.TextEditorRevealType.InCenterIfOutsideViewport);
  }
}

async function warn(message: string): Promise<void> {
  const action = "Show log";
  if ((await vscode.window.showWarningMessage(message, action)) === action) {
    await vscode.commands.executeCommand("starcite.showLog");
  }
}

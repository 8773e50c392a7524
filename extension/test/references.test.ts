import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type * as vscode from "vscode";
import type { Server } from "../src/client";
import { afterEdit, checkSelection, type Mark, Marks } from "../src/references";
import { MATCH } from "./fixtures";
import { changes, Position, Range, window } from "./vscode";

const MARK: Mark = { start: 10, end: 20, match: MATCH };

describe("afterEdit", () => {
  it("moves a mark that lies behind the edit by what the edit adds", () => {
    expect(afterEdit([MARK], { rangeOffset: 2, rangeLength: 3, text: "12345" })).toEqual([{ ...MARK, start: 12, end: 22 }]);
  });

  it("keeps a mark when text is inserted right before or right behind it", () => {
    expect(afterEdit([MARK], { rangeOffset: 10, rangeLength: 0, text: "\n" })).toEqual([{ ...MARK, start: 11, end: 21 }]);
    expect(afterEdit([MARK], { rangeOffset: 20, rangeLength: 0, text: "\n" })).toEqual([MARK]);
  });

  it("takes a mark away when its text is edited, also only in part", () => {
    expect(afterEdit([MARK], { rangeOffset: 15, rangeLength: 0, text: "x" })).toEqual([]);
    expect(afterEdit([MARK], { rangeOffset: 5, rangeLength: 6, text: "" })).toEqual([]);
    expect(afterEdit([MARK], { rangeOffset: 19, rangeLength: 5, text: "" })).toEqual([]);
  });
});

/** A document of 30 lines of ten characters, line break included, and the editor that shows it. */
function open(selection: Range) {
  const document = {
    uri: { toString: () => "file:///w/a.py" },
    version: 1,
    getText: () => "123456789\n".repeat(30),
    offsetAt: (position: Position) => position.line * 10 + position.character,
    positionAt: (offset: number) => new Position(Math.floor(offset / 10), offset % 10),
    lineAt: ({ line }: Position) => ({ range: new Range(new Position(line, 0), new Position(line, 9)) }),
  };
  const drawn = new Map<unknown, unknown[]>();
  const editor = { document, selection, setDecorations: (type: unknown, ranges: unknown[]) => drawn.set(type, ranges) };
  window.visibleTextEditors = [editor];
  return { document, editor: editor as unknown as vscode.TextEditor, drawn: () => [...drawn.values()].map((ranges) => ranges.length) };
}

const line = (number: number) => new Range(new Position(number, 0), new Position(number, 9));
const none = new Range(new Position(0, 0), new Position(0, 0));
const checked = { state: "checked", reason: null, indexes: [{ name: "i", documents: 1 }], covers_model: "full" };
const serverThat = (check: () => Promise<unknown>) => ({ check }) as unknown as Server;
const finds = (...lines: number[]) =>
  serverThat(() => Promise.resolve({ checked, matches: lines.map((number) => ({ ...MATCH, range: line(number) })) }));

describe("checkSelection", () => {
  let marks: Marks;
  beforeEach(() => {
    vi.clearAllMocks();
    marks = new Marks();
  });
  afterEach(() => { marks.dispose(); });

  it("marks and labels what was found, and does not touch the selection", async () => {
    const { editor, drawn } = open(line(3));
    const { selection } = editor;
    await checkSelection(editor, finds(3), marks);
    expect(drawn()).toEqual([1, 1]);
    expect(editor.selection).toBe(selection);
    expect(window.showInformationMessage).toHaveBeenCalledWith(expect.stringMatching(/^1 passage found/), "Show passage");
  });

  it("does not mark what the policy allows", async () => {
    const { editor, drawn } = open(none);
    const allowed = { ...MATCH, decision: "allow", range: line(1) };
    await checkSelection(editor, serverThat(() => Promise.resolve({ checked, matches: [allowed, { ...MATCH, range: line(3) }] })), marks);
    expect(drawn()).toEqual([1, 1]);
  });

  it("replaces the marks in the checked lines and keeps those elsewhere", async () => {
    const { editor, document } = open(none);
    await checkSelection(editor, finds(1, 5), marks);
    await checkSelection(open(line(5)).editor, finds(), marks);
    expect(marks.of(document as unknown as vscode.TextDocument).map((mark) => mark.start)).toEqual([10]);
  });

  it("draws a mark no longer once its text is edited", async () => {
    const { editor, document, drawn } = open(none);
    await checkSelection(editor, finds(1, 5), marks);
    changes.fire({ document, contentChanges: [{ rangeOffset: 52, rangeLength: 1, text: "" }] });
    expect(drawn()).toEqual([1, 1]);
  });

  it("warns that the text was not checked, with the reason, and keeps the marks that are there", async () => {
    const { editor, drawn } = open(none);
    await checkSelection(editor, finds(1), marks);
    await checkSelection(editor, serverThat(() => Promise.reject(new Error("no server. Restart it."))), marks);
    expect(window.showWarningMessage).toHaveBeenCalledWith("Not checked: no server. Restart it.", "Show log");
    expect(drawn()).toEqual([1, 1]);
  });

  it("does not mark a text that changed while it was checked", async () => {
    const { editor, document, drawn } = open(none);
    await checkSelection(editor, serverThat(() => {
      document.version = 2;
      return Promise.resolve({ checked, matches: [{ ...MATCH, range: line(1) }] });
    }), marks);
    expect(drawn()).toEqual([]);
    expect(window.showWarningMessage).toHaveBeenCalledWith(expect.stringMatching(/^Not checked: the text was edited/), "Show log");
  });
});

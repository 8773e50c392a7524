// The part of the `vscode` module that the unit tests need, in its own meaning: no editor, no magic.

import { vi } from "vitest";

export class Position {
  constructor(readonly line: number, readonly character: number) {}
}

export class Range {
  constructor(readonly start: Position, readonly end: Position) {}
  get isEmpty(): boolean {
    return this.start.line === this.end.line && this.start.character === this.end.character;
  }
}

export class MarkdownString {
  constructor(readonly value = "", readonly supportThemeIcons = false) {}
}

export class ThemeColor {
  constructor(readonly id: string) {}
}

export class EventEmitter<T> {
  private readonly listeners = new Set<(value: T) => unknown>();
  readonly event = (listener: (value: T) => unknown) => {
    this.listeners.add(listener);
    return { dispose: () => this.listeners.delete(listener) };
  };
  fire(value: T): void {
    this.listeners.forEach((listener) => listener(value));
  }
}

export const Disposable = {
  from: (...parts: { dispose(): unknown }[]) => ({ dispose: () => { parts.forEach((part) => part.dispose()); } }),
};

export const StatusBarAlignment = { Left: 1, Right: 2 };
export const OverviewRulerLane = { Right: 4 };
export const DecorationRangeBehavior = { ClosedClosed: 1 };
export const ProgressLocation = { Window: 10 };
export const ConfigurationTarget = { Global: 1, Workspace: 2 };

export const changes = new EventEmitter<unknown>();

export const statusItem = { text: "", tooltip: new MarkdownString(), backgroundColor: undefined, show: vi.fn(), dispose: vi.fn() };

export const window = {
  visibleTextEditors: [] as unknown[],
  createStatusBarItem: () => statusItem,
  createTextEditorDecorationType: (options: object) => ({ ...options, dispose: vi.fn() }),
  onDidChangeVisibleTextEditors: new EventEmitter<unknown>().event,
  showInformationMessage: vi.fn(),
  showWarningMessage: vi.fn(),
  withProgress: (_options: unknown, task: () => unknown) => task(),
};

/** Values by full name, as settings.json has them; `workspace.getConfiguration` nests them. */
export const settings = new Map<string, unknown>();

function nested(prefix: string): Record<string, unknown> {
  const tree: Record<string, unknown> = {};
  for (const [name, value] of settings) {
    const path = name.startsWith(`${prefix}.`) ? name.slice(prefix.length + 1).split(".") : [];
    const last = path.pop();
    if (last !== undefined) {
      const folder = path.reduce((node, key) => (node[key] ??= {}) as Record<string, unknown>, tree);
      folder[last] = value;
    }
  }
  return tree;
}

export const workspace = {
  onDidChangeTextDocument: changes.event,
  onDidCloseTextDocument: new EventEmitter<unknown>().event,
  getConfiguration: (section?: string) => ({
    get: (name: string, fallback: unknown) =>
      section === undefined ? nested(name) : (settings.get(`${section}.${name}`) ?? fallback),
  }),
};

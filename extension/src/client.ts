// The language server's process: finding it, starting it, and starting it again when it ends by itself.

import { constants } from "node:fs";
import { access } from "node:fs/promises";
import { homedir } from "node:os";
import { delimiter, isAbsolute, join } from "node:path";
import { createInterface } from "node:readline";
import * as vscode from "vscode";
import {
  CloseAction,
  ErrorAction,
  InlineCompletionRequest,
  LanguageClient,
  type LanguageClientOptions,
  type Middleware,
  RevealOutputChannelOn,
  State,
} from "vscode-languageclient/node";
import { logReferences } from "./log";
import type { CheckResult, DocumentMatch, ServerStatus, SuggestedItem } from "./protocol";
import { SECTION, serverPath, serverSettings } from "./settings";
import type { Status } from "./status";

const SELECTOR = [{ scheme: "file" }, { scheme: "untitled" }, { scheme: "vscode-notebook-cell" }];

/** A server that ends more often than this within the time below has a fault that starting it again does not mend. */
const MAX_ENDS = 4;
const ENDS_WITHIN_MS = 3 * 60_000;

const RESTART_HINT = "Run 'Starcite: Show log' for the cause, then 'Starcite: Restart server'.";

/** The `starcite` command cannot be started; the message is one sentence that ends in what to do. */
export class ServerMissingError extends Error {}

/** A match of `starcite/check`, with its place as VS Code counts it. */
export type PlacedMatch = Omit<DocumentMatch, "range"> & { readonly range: vscode.Range };

export type PlacedResult = Omit<CheckResult, "matches"> & { readonly matches: readonly PlacedMatch[] };

/**
 * The absolute path of the server: the one set, or the first `starcite` on PATH or where pip, pipx and uv put one.
 * Raises ServerMissingError when there is none that may be executed.
 */
export async function findServer(configured: string, path: string, home: string): Promise<string> {
  const folders = [...path.split(delimiter).filter(isAbsolute), join(home, ".local", "bin")];
  const names = process.platform === "win32" ? ["starcite.exe"] : ["starcite"];
  const candidates = configured === "" ? folders.flatMap((folder) => names.map((name) => join(folder, name))) : [configured];
  for (const candidate of candidates) {
    if (isAbsolute(candidate) && (await isExecutable(candidate))) {
      return candidate;
    }
  }
  throw new ServerMissingError(
    configured === ""
      ? "The 'starcite' command was not found: install it with 'pip install starcite', or set starcite.server.path to it."
      : `There is no program at '${configured}': set starcite.server.path to the absolute path of the 'starcite' command.`,
  );
}

async function isExecutable(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Says whether to start the server again, from the times at which it ended. */
export class RestartPolicy {
  private ends: number[] = [];

  mayRestart(now_ms: number): boolean {
    this.ends = [...this.ends.filter((end_ms) => now_ms - end_ms < ENDS_WITHIN_MS), now_ms];
    return this.ends.length <= MAX_ENDS;
  }
}

/** The library's client without its pop-ups: the status bar item says the same, and does not interrupt. */
class QuietClient extends LanguageClient {
  override error(message: string, data?: unknown): void {
    super.error(message, data, false);
  }
}

/** The server, started and stopped in the order in which that was asked for. */
export class Server {
  private client: LanguageClient | undefined;
  private turn: Promise<void> = Promise.resolve();
  private hasRun = false;
  private toldMissing = false;

  constructor(
    private readonly log: vscode.LogOutputChannel,
    private readonly status: Status,
  ) {}

  start(): Promise<void> {
    return this.inTurn(() => this.startNow());
  }

  stop(): Promise<void> {
    return this.inTurn(() => this.stopNow());
  }

  restart(): Promise<void> {
    return this.inTurn(async () => {
      await this.stopNow();
      await this.startNow();
    });
  }

  /** Asks for the matches in a range of a document, or in all of it. Raises an Error whose message ends in what to do. */
  async check(document: vscode.TextDocument, range: vscode.Range | undefined): Promise<PlacedResult> {
    await this.turn;
    const client = this.client;
    if (client === undefined || client.needsStart()) {
      throw new Error(`the Starcite server is not running. ${RESTART_HINT}`);
    }
    if (vscode.languages.match(SELECTOR, document) === 0) {
      throw new Error("only files, unsaved documents and notebook cells are checked. Copy the text into a new file.");
    }
    const result = await client.sendRequest<CheckResult>("starcite/check", {
      textDocument: client.code2ProtocolConverter.asTextDocumentIdentifier(document),
      ...(range && { range: client.code2ProtocolConverter.asRange(range) }),
    });
    const matches = result.matches.map((match) => ({ ...match, range: client.protocol2CodeConverter.asRange(match.range) }));
    return { ...result, matches };
  }

  private inTurn(step: () => Promise<void>): Promise<void> {
    this.turn = this.turn.then(step);
    return this.turn;
  }

  private async startNow(): Promise<void> {
    this.status.setState("starting");
    this.hasRun = false;
    try {
      const command = await findServer(serverPath(), process.env.PATH ?? "", homedir());
      this.log.info(`Starting ${command} lsp`);
      const client = new QuietClient(SECTION, "Starcite", { command, args: ["lsp"] }, this.options());
      client.onNotification("starcite/status", (status: ServerStatus) => { this.status.set(status); });
      client.onDidChangeState(({ newState }) => {
        if (newState === State.Running) {
          void this.running(client);
        }
      });
      await client.start();
      this.client = client;
    } catch (error) {
      this.failed(error);
    }
  }

  private async stopNow(): Promise<void> {
    const client = this.client;
    this.client = undefined;
    this.status.setState("off", "The server was stopped.", "Run 'Starcite: Restart server'.");
    try {
      await client?.dispose();
    } catch (error) {
      // A server that has already ended cannot be asked to; there is nothing left to stop.
      this.log.warn(`Stopping the server: ${String(error)}`);
    }
  }

  /** Takes the first status of a server that started, or was started again after it ended. */
  private async running(client: LanguageClient): Promise<void> {
    this.hasRun = true;
    this.toldMissing = false;
    try {
      this.status.set(await client.sendRequest<ServerStatus>("starcite/status", {}));
    } catch (error) {
      this.log.warn(`Asking for the status: ${String(error)}`);
    }
  }

  private failed(error: unknown): void {
    const message = error instanceof Error ? error.message : String(error);
    this.log.error(message);
    if (!(error instanceof ServerMissingError)) {
      this.status.setState("off", `The server did not start (${message}).`, RESTART_HINT);
      return;
    }
    this.status.setState("off", message, "Then run 'Starcite: Restart server'.");
    if (!this.toldMissing) {
      this.toldMissing = true;
      void offerSetting(message);
    }
  }

  private options(): LanguageClientOptions {
    const policy = new RestartPolicy();
    return {
      documentSelector: SELECTOR,
      initializationOptions: serverSettings,
      // Deprecated in favour of settings that the server asks for; but servers of ours also serve editors that only send them.
      // eslint-disable-next-line @typescript-eslint/no-deprecated
      synchronize: { configurationSection: SECTION },
      outputChannel: this.log,
      revealOutputChannelOn: RevealOutputChannelOn.Never,
      middleware: this.middleware(),
      // What the server writes to stderr is its log, not only its errors.
      stdioOptions: {
        stdout: () => undefined,
        stderr: (input, log) => { createInterface({ input }).on("line", (line) => { log.info(line); }); },
      },
      initializationFailedHandler: () => false,
      errorHandler: {
        error: () => ({ action: ErrorAction.Continue, handled: true }),
        closed: () => ({ action: this.ended(policy) ? CloseAction.Restart : CloseAction.DoNotRestart, handled: true }),
      },
    };
  }

  /** Says whether a server that ended by itself is started again; one that never ran is not. */
  private ended(policy: RestartPolicy): boolean {
    if (!this.hasRun) {
      return false;
    }
    const restart = policy.mayRestart(Date.now());
    if (restart) {
      this.status.setState("starting", "The server ended and is started again.");
    } else {
      this.status.setState("off", `The server ended ${MAX_ENDS + 1} times in a short while.`, RESTART_HINT);
    }
    return restart;
  }

  /** Takes note of the references of suggestions, which VS Code's own type for a suggestion has no room for. */
  private middleware(): Middleware {
    return {
      sendRequest: async (type, params, token, next) => {
        const answer = await next(type, params, token);
        if (typeof type !== "string" && type.method === InlineCompletionRequest.method && token?.isCancellationRequested !== true) {
          const items = suggested(answer);
          logReferences(this.log, items);
          this.status.setSuggestions(items);
        }
        return answer;
      },
    };
  }
}

/** The items of an answer to `textDocument/inlineCompletion`, which may be a list, an object with one, or nothing. */
function suggested(answer: unknown): readonly SuggestedItem[] {
  if (Array.isArray(answer)) {
    return answer as SuggestedItem[];
  }
  return (answer as { items: SuggestedItem[] } | null)?.items ?? [];
}

async function offerSetting(message: string): Promise<void> {
  const open = "Open setting";
  if ((await vscode.window.showErrorMessage(message, open)) === open) {
    await vscode.commands.executeCommand("workbench.action.openSettings", "starcite.server.path");
  }
}

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { findServer, RestartPolicy, ServerMissingError } from "../src/client";

// The library that speaks LSP wants all of VS Code; what is tested here is what happens before it is asked.
vi.mock("vscode-languageclient/node", () => ({ LanguageClient: Object }));

describe("findServer", () => {
  let folder = "";
  beforeEach(async () => { folder = await mkdtemp(join(tmpdir(), "starcite-")); });
  afterEach(async () => { await rm(folder, { recursive: true }); });

  async function program(mode: number): Promise<string> {
    const path = join(folder, "starcite");
    await writeFile(path, "", { mode });
    return path;
  }

  it("takes the first executable on PATH", async () => {
    const path = await program(0o755);
    expect(await findServer("", ["/nonexistent", folder].join(delimiter), "/nonexistent")).toBe(path);
  });

  it("passes over a file that may not be executed, and folders of PATH that depend on the current one", async () => {
    await program(0o644);
    await expect(findServer("", [".", folder].join(delimiter), "/nonexistent")).rejects.toThrow(ServerMissingError);
  });

  it("says which setting to change when the path that was set leads nowhere", async () => {
    await expect(findServer("/nonexistent/starcite", folder, folder)).rejects.toThrow(
      "There is no program at '/nonexistent/starcite': set starcite.server.path to the absolute path of the 'starcite' command.",
    );
  });
});

describe("RestartPolicy", () => {
  it("gives up on the fifth end within three minutes", () => {
    const policy = new RestartPolicy();
    expect([0, 1, 2, 3, 4].map((second) => policy.mayRestart(second * 1000))).toEqual([true, true, true, true, false]);
  });

  it("forgets ends that lie further back", () => {
    const policy = new RestartPolicy();
    expect([0, 1, 2, 3, 4].map((minute) => policy.mayRestart(minute * 60_000)).every(Boolean)).toBe(true);
  });
});

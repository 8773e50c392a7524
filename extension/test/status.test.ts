import { beforeEach, expect, it } from "vitest";
import type { State } from "../src/protocol";
import { Status } from "../src/status";
import { MATCH } from "./fixtures";
import { settings, statusItem } from "./vscode";

const SERVER = { state: "ready" as State, model: "starter", index: "stdlib", message: "", action: "" };

beforeEach(() => { settings.clear(); });

it("tells the states apart without the tooltip, where working and waiting look alike", () => {
  const status = new Status();
  const texts = (["downloading", "ready", "busy", "degraded", "off"] as const).map((state) => {
    status.set({ ...SERVER, state });
    return statusItem.text;
  });
  expect(new Set(texts).size).toBe(5);
});

it("says in the tooltip what is wrong and what to do about it", () => {
  new Status().set({ ...SERVER, state: "degraded", message: "No index.", action: "Run 'starcite index build'." });
  expect(statusItem.tooltip.value).toContain("No index.");
  expect(statusItem.tooltip.value).toContain("Run 'starcite index build'.");
});

it("shows that completions are turned off although the server runs", () => {
  settings.set("starcite.enable", false);
  new Status().set(SERVER);
  expect(statusItem.text).toBe("$(circle-slash) Starcite");
});

it("names the source of a suggestion until one without a source follows", () => {
  const status = new Status();
  status.set(SERVER);
  status.setSuggestions([{ insertText: "x", references: [MATCH] }]);
  expect(statusItem.tooltip.value).toContain("PSF");
  status.setSuggestions([{ insertText: "y" }]);
  expect(statusItem.tooltip.value).not.toContain("PSF");
});

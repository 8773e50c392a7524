import { beforeEach, expect, it } from "vitest";
import manifest from "../package.json";
import { completionsEnabled, serverPath, serverSettings } from "../src/settings";
import { settings } from "./vscode";

const properties: Readonly<Record<string, { default: unknown }>> = manifest.contributes.configuration.properties;

beforeEach(() => {
  settings.clear();
  Object.entries(properties).forEach(([name, { default: value }]) => settings.set(name, value));
});

function names(tree: object, prefix = ""): string[] {
  return Object.entries(tree).flatMap(([key, value]: [string, unknown]) =>
    typeof value === "object" && value !== null && !Array.isArray(value) ? names(value, `${prefix}${key}.`) : [`${prefix}${key}`],
  );
}

it("sends the server every setting of package.json but those that only this side reads", () => {
  const expected = Object.keys(properties).filter((name) => !/\.(server\.path|trace\.server)$/.test(name));
  expect(names(serverSettings()).sort()).toEqual(expected.sort());
});

it("reads with the same defaults as package.json when nothing is set", () => {
  settings.clear();
  expect(serverPath()).toBe(properties["starcite.server.path"]?.default);
  expect(completionsEnabled()).toBe(properties["starcite.enable"]?.default);
});

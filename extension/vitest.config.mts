import { resolve } from "node:path";
import { defineConfig } from "vitest/config";

export default defineConfig({
  resolve: { alias: { vscode: resolve(import.meta.dirname, "test/vscode.ts") } },
  test: { include: ["test/**/*.test.ts"] },
});

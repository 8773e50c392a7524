// Bundles the extension into one file, so that starting it opens one file and the package holds no node_modules,
// and writes dist/NOTICES.txt: the licences of what went into that file.
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { build } from "esbuild";

const { metafile } = await build({
  entryPoints: ["src/extension.ts"],
  outfile: "dist/extension.js",
  bundle: true,
  minify: true,
  metafile: true,
  platform: "node",
  format: "cjs",
  // VS Code 1.91, the oldest that we support, runs its extensions on node 20.
  target: "node20",
  external: ["vscode"],
});

const bundled = Object.keys(metafile.inputs).flatMap((path) => path.match(/.*node_modules\/(?:@[^/]+\/)?[^/]+/)?.[0] ?? []);
const notices = await Promise.all([...new Set(bundled)].sort().map(notice));
await writeFile("dist/NOTICES.txt", notices.join("\n"));

async function notice(folder) {
  const { name, version, license } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
  const file = (await readdir(folder)).find((entry) => /^licen[cs]e/i.test(entry));
  if (file === undefined) {
    throw new Error(`${folder} is bundled and has no licence file: add its licence text before you publish it`);
  }
  return `${name} ${version} (${license})\n\n${await readFile(join(folder, file), "utf8")}`;
}

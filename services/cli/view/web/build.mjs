// Builds ../assets: what the browser is given, and beside it the licences of what is bundled.
import { build } from "esbuild";
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = join(here, "..", "assets");
rmSync(out, { recursive: true, force: true });
mkdirSync(out);
const { metafile } = await build({
  absWorkingDir: here,
  entryPoints: { app: "src/main.tsx", layout: "src/map/layout.ts" },
  outdir: out,
  bundle: true,
  minify: true,
  metafile: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  logLevel: "warning",
});
for (const name of ["index.html", "icon.svg"]) cpSync(join(here, "src", name), join(out, name));

const bundled = new Set();
for (const input of Object.keys(metafile.inputs)) {
  const found = input.match(/^node_modules\/((?:@[^/]+\/)?[^/]+)\//);
  if (found) bundled.add(found[1]);
}
const texts = [...bundled].sort().map((name) => {
  const folder = join(here, "node_modules", name);
  const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = readdirSync(folder).find((each) => /^licen[cs]e/i.test(each));
  const text = file && existsSync(join(folder, file)) ? readFileSync(join(folder, file), "utf8").trim() : "";
  return `${name} ${version} (${license})\n\n${text}\n`;
});
writeFileSync(join(out, "licences.txt"), texts.join(`\n${"-".repeat(80)}\n\n`));

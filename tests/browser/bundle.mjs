// What tests show in a browser, as a production build has it:  node bundle.mjs ENTRY FILE

import { readFile } from "node:fs/promises";
import { build } from "esbuild";

const svelte = {
  name: "svelte",
  setup({ onLoad }) {
    onLoad({ filter: /\.svelte$/ }, async ({ path }) => {
      const { compile } = await import("svelte/compiler");
      const { js, warnings } = compile(await readFile(path, "utf8"), { filename: path });
      return { contents: js.code, warnings: warnings.map(({ message }) => ({ text: message })) };
    });
  },
};

const [entry, outfile] = process.argv.slice(2);
await build({
  entryPoints: [new URL(entry, import.meta.url).pathname],
  outfile,
  bundle: true,
  format: "esm",
  jsx: "automatic",
  minify: true,
  conditions: ["svelte", "browser"],
  define: {
    "process.env.NODE_ENV": '"production"',
    __VUE_OPTIONS_API__: "false",
    __VUE_PROD_DEVTOOLS__: "false",
    __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: "false",
  },
  plugins: [svelte],
});

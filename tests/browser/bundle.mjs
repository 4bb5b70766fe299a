// The frontend of tests as a production build has it:  node bundle.mjs FILE

import { build } from "esbuild";

await build({
  entryPoints: [new URL("frontend/app.jsx", import.meta.url).pathname],
  outfile: process.argv[2],
  bundle: true,
  format: "esm",
  jsx: "automatic",
  minify: true,
  define: { "process.env.NODE_ENV": '"production"' },
});

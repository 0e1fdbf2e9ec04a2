import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

// In development the pages come from here and everything else from a server that runs already:
// MOORLINE=http://127.0.0.1:7440 npm run dev
const server = process.env.MOORLINE ?? "http://127.0.0.1:7440";

export default defineConfig({
  plugins: [react()],
  build: {
    // `dist` holds a file that belongs to the repository; scripts/compress.mjs takes away what is old.
    emptyOutDir: false,
    target: "es2022",
    modulePreload: { polyfill: false },
    // A style sheet or a picture inside a script would need a weaker policy of the page.
    assetsInlineLimit: 0,
  },
  server: { proxy: { "/api": server, "/endpoints": server } },
  test: { include: ["src/**/*.test.ts"] },
});

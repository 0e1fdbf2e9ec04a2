// How soon the portal is there, and how smoothly it scrolls: `cargo xtask bench monitor` makes the server, 200 deployments and
// 1,000 devices, and reads what this prints.

import { base, open } from "./browser.mjs";

const SCROLLED = 3000;

const { page, close } = await open();

/** Milliseconds until something is seen of a page. */
async function paint(url) {
  await page.goto(url);
  await page.waitForFunction(() => performance.getEntriesByName("first-contentful-paint").length > 0);
  return page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0].startTime);
}

/** The longest time between two frames while a page is scrolled from its beginning to its end. */
const scroll = () =>
  page.evaluate(
    (time) =>
      new Promise((resolve) => {
        const [begun, gaps] = [performance.now(), []];
        let before = begun;
        const frame = () => {
          const now = performance.now();
          gaps.push(now - before);
          before = now;
          window.scrollTo(0, ((now - begun) / time) * (document.documentElement.scrollHeight - window.innerHeight));
          // The first one still has what came before the scrolling in it.
          if (now - begun < time) requestAnimationFrame(frame);
          else resolve(Math.max(...gaps.slice(1)));
        };
        requestAnimationFrame(frame);
      }),
    SCROLLED,
  );

/** The same of a list, once all of it is there. */
async function list(path, count) {
  await page.goto(`${base}/w/default/${path}`);
  await page.locator(`[role="table"][aria-rowcount="${count + 1}"]`).waitFor();
  await page.waitForTimeout(1000);
  return scroll();
}

try {
  // A browser that has just begun is slow with whatever is its first page.
  const plain = (height) => `data:text/html,<body style="margin:0;height:${height}px">word</body>`;
  await paint(plain(10));
  const empty_paint = await paint(plain(10));
  let bytes = 0;
  const session = await page.context().newCDPSession(page);
  await session.send("Network.enable");
  await session.send("Network.setCacheDisabled", { cacheDisabled: true });
  const own = new Map();
  session.on("Network.responseReceived", ({ requestId, response }) => own.set(requestId, !response.url.includes("/api/")));
  session.on("Network.loadingFinished", ({ requestId, encodedDataLength }) => {
    if (own.get(requestId)) bytes += encodedDataLength;
  });
  const first = await paint(`${base}/`);
  await page.getByRole("heading", { level: 1 }).waitFor();
  const sent = bytes;
  await page.goto(plain(1000 * 44));
  const empty_frame = await scroll();
  const deployments = await list("deployments", 200);
  const devices = await list("devices", 1000);
  console.log(JSON.stringify({ paint: first, empty_paint, bytes: sent, empty_frame, deployments, devices }));
} finally {
  await close();
}

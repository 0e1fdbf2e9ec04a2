// A browser, and what every story does with it: looking, asking axe, and keeping pictures.

import { createRequire } from "node:module";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
/** For anything that takes a moment; a machine that compiles beside the test is slow. */
export const PATIENCE = 60_000;

export const base = process.env.PORTAL_BASE;
const pictures = process.env.PORTAL_PICTURES;

/** What went wrong in pages: scripts that threw, and whatever the policy refused. */
export const complaints = [];

export async function open(more = {}) {
  const profile = mkdtempSync(join(tmpdir(), "moorline-portal-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.PORTAL_CHROMIUM ?? "/usr/bin/chromium",
    args: FLAGS,
    viewport: { width: 1280, height: 860 },
    // axe is put into the page by the test, which the page's own policy would refuse.
    bypassCSP: false,
    ...more,
  });
  context.setDefaultTimeout(PATIENCE);
  const page = context.pages()[0] ?? (await context.newPage());
  watch(page);
  return { context, page, close: () => context.close().finally(() => rmSync(profile, { recursive: true, force: true })) };
}

function watch(page) {
  page.on("pageerror", (error) => complaints.push(`threw: ${error.message}`));
  page.on("console", (message) => {
    const text = message.text();
    // A server that is away, or that refuses, is part of the story.
    if (message.type() === "error" && !/Failed to load resource|net::ERR/.test(text)) complaints.push(text);
  });
}

/** Runs a part of a story, and says which one it was. */
export async function part(page, name, work) {
  const begun = performance.now();
  try {
    await work();
    console.log(`ok   ${name} (${((performance.now() - begun) / 1000).toFixed(1)} s)`);
  } catch (error) {
    await picture(page, `failed-${name.replace(/\W+/g, "-")}`).catch(() => undefined);
    console.log(`FAIL ${name} at ${page.url()}\n${error.stack ?? error}`);
    console.log(await page.locator("body").innerText().catch(() => ""));
    throw error;
  }
}

export async function picture(page, name) {
  if (!pictures) return;
  mkdirSync(pictures, { recursive: true });
  await page.screenshot({ path: join(pictures, `${name}.png`), fullPage: true });
}

/** What axe finds of WCAG 2.2 A and AA. It runs in the test's own world, which a page's policy does not reach. */
export async function accessible(page, name) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() =>
    globalThis.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }),
  );
  const said = violations.map(({ id, help, nodes }) => `${id}: ${help}\n${nodes.slice(0, 4).map(({ html, failureSummary }) => `    ${html.slice(0, 200)}\n    ${failureSummary?.split("\n").slice(1, 3).join(" ")}`).join("\n")}`);
  if (said.length > 0) throw new Error(`${name} is not accessible:\n${said.join("\n")}`);
}

/** Looks at a page as people have it: wide and narrow, light and dark, and with axe. */
export async function look(page, name) {
  for (const [suffix, width, colorScheme] of [["", 1280, "light"], ["-dark", 1280, "dark"], ["-narrow", 360, "light"], ["-narrow-dark", 360, "dark"]]) {
    await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
    await page.setViewportSize({ width, height: width === 360 ? 740 : 860 });
    await page.waitForTimeout(120);
    await picture(page, `${name}${suffix}`);
    const beyond = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    if (beyond > 0) throw new Error(`${name} is ${beyond} px wider than a screen of ${width} px`);
    // What axe looks at depends on the width and on the colours; each of them once.
    if (suffix === "" || suffix === "-narrow-dark") await accessible(page, `${name}${suffix}`);
  }
  await page.emulateMedia({ colorScheme: "light", reducedMotion: "no-preference" });
  await page.setViewportSize({ width: 1280, height: 860 });
}

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Asks whoever started this to do something with the server, and waits until it has. */
export async function ask(what) {
  console.log(`ASK ${what}`);
  const { value, done } = await lines.next();
  if (done) throw new Error(`nobody answers to: ${what}`);
  return value;
}

export function check(holds, why) {
  if (!holds) throw new Error(why);
}

/** Asks until it holds. */
export async function until(what, question) {
  const deadline = Date.now() + PATIENCE;
  for (;;) {
    const answer = await question();
    if (answer) return answer;
    if (Date.now() > deadline) throw new Error(`it did not come to this: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

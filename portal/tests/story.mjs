// The README's story by clicks: register a model, deploy it, call it, split the traffic, watch the chart, roll back. And
// what goes wrong around it: a server that is started anew, and names and lines that would be scripts.
//
// PORTAL_BASE is the server, PORTAL_MODEL an ONNX file, PORTAL_BROKEN a file that is none, PORTAL_PICTURES a folder.

import { ask, base, check, complaints, look, open, part, picture, until } from "./browser.mjs";

const HOSTILE = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>";
const { page, close } = await open();

const heading = (text) => page.getByRole("heading", { level: 1, name: text, exact: true }).waitFor();
const go = (name) => page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name }).click();
const api = (path) => page.evaluate((path) => fetch(`/api/v1/workspaces/default/${path}`).then((answer) => answer.json()), path);

async function register(file, { name, description }) {
  await go("Models");
  await page.getByRole("button", { name: "Register a model" }).first().click();
  const dialog = page.getByRole("dialog");
  await dialog.locator("input[data-files]").setInputFiles(file);
  if (name) await dialog.getByLabel("Name", { exact: true }).fill(name);
  if (description) await dialog.getByLabel("Description").fill(description);
  await dialog.getByRole("button", { name: "Register" }).click();
  await page.getByText("Where it is deployed").waitFor();
}

async function deploy({ endpoint, deployment }, state) {
  await page.getByRole("button", { name: "Deploy", exact: true }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Endpoint", { exact: true }).fill(endpoint);
  await dialog.getByRole("button", { name: "Deploy" }).click();
  await heading(`${endpoint}/${deployment}`);
  await page.locator(".page-head").getByText(state, { exact: true }).waitFor();
}

try {
  await part(page, "the portal opens", async () => {
    await page.goto(base);
    await heading("Overview");
    check(page.url().endsWith("/w/default"), `it leads to ${page.url()}`);
    const paint = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime);
    console.log(`first paint after ${Math.round(paint)} ms`);
    await look(page, "overview-empty");
  });

  await part(page, "a model is registered", async () => {
    await register(process.env.PORTAL_MODEL, { name: "iris", description: HOSTILE });
    await heading("iris");
    await page.getByRole("row", { name: /x FP32/ }).waitFor();
    check(await page.getByText(HOSTILE).isVisible(), "a description is shown as it was written");
    await look(page, "model");
    await go("Models");
    await page.getByRole("table", { name: "models" }).waitFor();
    await look(page, "models");
    await page.getByRole("link", { name: "iris" }).click();
  });

  await part(page, "it is deployed", async () => {
    await deploy({ endpoint: "iris", deployment: "blue" }, "Succeeded");
    await page.getByText("100 % of the traffic").waitFor();
    await page.getByRole("list", { name: "Phases" }).getByText("Start").waitFor();
    await page.locator(".log-line").first().waitFor();
    await look(page, "deployment");
  });

  await part(page, "it is called from the console", async () => {
    await page.getByRole("navigation", { name: "Where this is" }).getByRole("link", { name: "iris" }).click();
    await heading("iris");
    await page.getByRole("link", { name: "Console" }).click();
    const body = page.getByLabel("Body", { exact: true });
    await until("a sample of the model's inputs", async () => (await body.inputValue()).includes('"x"'));
    await page.getByRole("button", { name: "Send" }).click();
    await page.locator(".status-line").getByText("200").waitFor();
    await page.locator(".status-line").getByText("by blue").waitFor();
    check((await page.locator(".answer").innerText()).trim().length > 1, "there is an answer");
    await page.getByText("Until the answer began").waitFor();
    await look(page, "console");
    await page.getByRole("link", { name: "Keys" }).click();
    await page.getByRole("button", { name: "Show the keys" }).click();
    await page.getByText("Secondary").waitFor();
    await look(page, "keys");
  });

  await part(page, "a second deployment stands beside it", async () => {
    await go("Models");
    await page.getByRole("link", { name: "iris" }).click();
    await heading("iris");
    await deploy({ endpoint: "iris", deployment: "green" }, "Succeeded");
    await page.getByText("0 % of the traffic").waitFor();
  });

  await part(page, "the traffic is split with a slider", async () => {
    await go("Endpoints");
    await page.getByRole("link", { name: "iris" }).click();
    await heading("iris");
    const slider = page.getByRole("slider", { name: "Traffic of green in percent" });
    await slider.focus();
    for (let step = 0; step < 10; step++) await page.keyboard.press("ArrowRight");
    await picture(page, "traffic-moved");
    await page.getByRole("button", { name: "Apply" }).click();
    await page.getByText("Traffic: blue 90 %, green 10 %").waitFor();
    const { traffic } = await api("online-endpoints/iris");
    check(traffic.blue === 90 && traffic.green === 10, JSON.stringify(traffic));
  });

  await part(page, "the charts move", async () => {
    await page.getByRole("link", { name: "Console" }).click();
    const body = page.getByLabel("Body", { exact: true });
    await until("a sample of the model's inputs", async () => (await body.inputValue()).includes('"x"'));
    const answered = new Set();
    for (let call = 0; call < 40; call++) {
      await page.getByRole("button", { name: "Send" }).click();
      const line = page.locator(".status-line");
      await until("the next answer", async () => (await page.locator(".console .lines li").first().innerText().catch(() => "")).includes(`#${call + 1}`) || call === 0);
      answered.add((await line.innerText()).match(/by (\w+)/)?.[1]);
    }
    check(answered.has("blue"), [...answered].join());
    await page.getByRole("link", { name: "Traffic", exact: true }).click();
    const chart = page.locator('[data-chart="Requests"] .plot');
    await until("a chart that shows the requests", async () => /blue [\d.]*[1-9]/.test((await chart.getAttribute("aria-label")) ?? ""));
  });

  await part(page, "the endpoint is looked at", () => look(page, "endpoint"));

  await part(page, "the split is taken back", async () => {
    const slider = page.getByRole("slider", { name: "Traffic of green in percent" });
    await slider.fill("60");
    await page.getByRole("button", { name: "Apply" }).click();
    await page.getByText("Traffic: blue 40 %, green 60 %").waitFor();
    await page.getByText("Traffic: blue 40 %, green 60 %").locator("..").getByRole("button", { name: "Undo" }).click();
    await page.getByText("Traffic: blue 90 %, green 10 %").last().waitFor();
    await until("the split of before", async () => (await api("online-endpoints/iris")).traffic.green === 10);
  });

  await part(page, "a rollout goes step by step and is rolled back", async () => {
    await page.getByRole("button", { name: "Roll out in steps…" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("Steps").fill("50:10m,100");
    await picture(page, "rollout-dialog");
    await dialog.getByRole("button", { name: "Begin" }).click();
    await page.getByRole("heading", { name: "Rollout to green" }).waitFor();
    check(await page.getByRole("slider", { name: /green/ }).isDisabled(), "a rollout alone moves the traffic");
    await look(page, "rollout");
    await page.getByRole("button", { name: "Roll back" }).click();
    await page.getByText("Aborted").first().waitFor();
    await until("the traffic of before", async () => (await api("online-endpoints/iris")).traffic.green === 10);
  });

  await part(page, "what fails says why, and its words run no script", async () => {
    await register(process.env.PORTAL_BROKEN, { name: "broken" });
    await deploy({ endpoint: "broken", deployment: "blue" }, "Failed");
    await page.getByRole("heading", { name: "Why it failed" }).waitFor();
    check((await page.locator("main").innerText()).includes("onerror=window.hacked"), "the file's name is shown as it is");
    await look(page, "failed");
  });

  await part(page, "every other page", async () => {
    for (const [link, title] of [["Overview", "overview"], ["Endpoints", "endpoints"], ["Deployments", "deployments"], ["Computes", "computes"], ["Devices", "devices"], ["Images", "images"]]) {
      await go(link);
      await heading(link);
      await until("everything that it asked for", async () => (await page.locator(".waiting").count()) === 0);
      await look(page, title);
    }
    await go("Computes");
    await page.getByRole("link", { name: "local" }).click();
    await heading("local");
    await look(page, "compute");
    await page.goto(`${base}/w/default/nowhere`);
    await heading("Nothing is here");
    await page.setViewportSize({ width: 360, height: 740 });
    await page.getByRole("button", { name: "Open the menu" }).click();
    await page.getByRole("link", { name: "Deployments" }).waitFor();
    await picture(page, "menu-narrow");
    await page.keyboard.press("Escape");
    await page.getByRole("link", { name: "Deployments" }).waitFor({ state: "hidden" });
    await page.getByRole("button", { name: "Open the menu" }).click();
    await page.getByRole("link", { name: "Deployments" }).click();
    await heading("Deployments");
    await page.setViewportSize({ width: 1280, height: 860 });
  });

  await part(page, "changes of others come without a reload", async () => {
    await go("Endpoints");
    await heading("Endpoints");
    await page.evaluate(() => (window.stayed = true));
    await ask("endpoint elsewhere");
    await page.getByRole("link", { name: "elsewhere" }).waitFor();
  });

  await part(page, "the server is started anew", async () => {
    await ask("stop");
    await page.getByText("The server does not answer.").waitFor();
    check(await page.getByRole("link", { name: "elsewhere" }).isVisible(), "what was known is shown still");
    await look(page, "away");
    await ask("start");
    await page.getByText("The server does not answer.").waitFor({ state: "detached" });
    await ask("endpoint afterwards");
    await page.getByRole("link", { name: "afterwards" }).waitFor();
    check(await page.evaluate(() => window.stayed), "the page was not loaded anew");
  });

  await part(page, "a script that is put into the page does not run", async () => {
    check((await page.evaluate(() => window.hacked)) === undefined, "a script of others ran");
    const before = complaints.length;
    await page.evaluate(() => {
      const script = document.createElement("script");
      script.textContent = "window.hacked = 2";
      document.body.append(script);
    });
    check((await page.evaluate(() => window.hacked)) === undefined, "the policy lets a script run");
    check(complaints.splice(before).some((text) => text.includes("Content Security Policy")), "the policy says nothing");
  });

  check(complaints.length === 0, `the pages complained:\n${complaints.join("\n")}`);
  console.log("DONE");
} finally {
  await close();
}
process.exit(0);

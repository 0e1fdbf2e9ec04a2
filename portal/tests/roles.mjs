// A server that asks for tokens: the door, and what roles are offered. PORTAL_OWNER and PORTAL_READER are tokens.

import { base, check, complaints, look, open, part } from "./browser.mjs";

const { page, close } = await open();
const heading = (text) => page.getByRole("heading", { level: 1, name: text, exact: true }).waitFor();

async function signIn(token) {
  await page.getByLabel("Token").fill(token);
  await page.getByRole("button", { name: "Sign in" }).click();
}

try {
  await part(page, "nobody comes in without a token", async () => {
    await page.goto(`${base}/w/default/endpoints/iris/keys`);
    await heading("Sign in to Moorline");
    await look(page, "sign-in");
    await signIn("mrl_wrong_token");
    await page.getByText("This token is not valid").waitFor();
  });

  await part(page, "a reader is offered nothing that it may not do", async () => {
    await signIn(process.env.PORTAL_READER);
    // The page that was asked for; its keys are not for readers.
    await heading("iris");
    check(!page.url().includes(process.env.PORTAL_READER), "a token is in the address");
    check((await page.getByRole("link", { name: "Keys" }).count()) === 0, "keys are offered");
    check((await page.getByRole("link", { name: "Console" }).count()) === 0, "the console is offered");
    check((await page.getByText("Show the keys").count()) === 0, "keys can be asked for");
    const pages = page.getByRole("navigation", { name: "Pages" });
    await pages.getByRole("link", { name: "Models" }).click();
    await heading("Models");
    check((await page.getByRole("button", { name: "Register a model" }).count()) === 0, "registering is offered");
    await pages.getByRole("link", { name: "Endpoints" }).click();
    await page.getByRole("link", { name: "iris" }).click();
    await heading("iris");
    check((await page.getByRole("button", { name: "Delete the endpoint" }).count()) === 0, "deleting is offered");
    await look(page, "reader");
  });

  await part(page, "it stays in its tab, and ends with it", async () => {
    await page.reload();
    await heading("iris");
    const kept = await page.evaluate(() => ({ local: JSON.stringify(localStorage), cookies: document.cookie }));
    check(!kept.local.includes("mrl_") && kept.cookies === "", JSON.stringify(kept));
    await page.getByRole("button", { name: "Sign out" }).click();
    await heading("Sign in to Moorline");
  });

  await part(page, "an owner is offered everything", async () => {
    await signIn(process.env.PORTAL_OWNER);
    await page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name: "Models" }).click();
    await page.getByRole("button", { name: "Register a model" }).first().waitFor();
  });

  check(complaints.length === 0, `the pages complained:\n${complaints.join("\n")}`);
  console.log("DONE");
} finally {
  await close();
}
process.exit(0);

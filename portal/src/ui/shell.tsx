// What stands around every page: where one can go, who one is, and whether the server is there.

import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type ReactNode, useEffect, useState } from "react";
import { Link, useLocation } from "wouter";
import { useConnection } from "../api/live";
import { about, workspaces } from "../api/queries";
import { path, useSession } from "../api/session";
import { hold } from "../api/token";
import { Icon, Mark } from "./icon";
import { Button } from "./parts";
import { choose, theme, type Theme } from "./theme";

const PAGES = [
  ["", "Overview", "overview"],
  ["models", "Models", "models"],
  ["endpoints", "Endpoints", "endpoints"],
  ["deployments", "Deployments", "deployments"],
  ["computes", "Computes", "computes"],
  ["devices", "Devices", "devices"],
  ["images", "Images", "images"],
] as const;

export function Shell({ children }: { children: ReactNode }) {
  const { at } = useSession();
  const [location] = useLocation();
  const [open, setOpen] = useState(false);
  useEffect(() => {
    setOpen(false);
    window.scrollTo(0, 0);
  }, [location.split("/").slice(0, 6).join("/")]);
  return (
    <div className={`shell${open ? " nav-open" : ""}`} onKeyDown={(event) => event.key === "Escape" && setOpen(false)}>
      <a className="skip" href="#content">Skip to the content</a>
      <header className="shell-bar">
        <Button look="quiet" icon={open ? "close" : "menu"} label={open ? "Close the menu" : "Open the menu"} aria-expanded={open} aria-controls="nav" onClick={() => setOpen(!open)} />
        <Link href={at()} className="brand"><Mark /> Moorline</Link>
      </header>
      <aside className="shell-nav" id="nav" aria-label="Workspace and pages">
        <Link href={at()} className="brand"><Mark /> Moorline</Link>
        <Workspaces />
        <nav aria-label="Pages">
          <ul>
            {PAGES.map(([page, title, icon]) => {
              const href = page === "" ? at() : at(page);
              const here = page === "" ? location === href : location === href || location.startsWith(`${href}/`);
              return (
                <li key={page}>
                  <Link href={href} aria-current={here ? "page" : undefined}>
                    <Icon name={icon} /> {title}
                  </Link>
                </li>
              );
            })}
          </ul>
        </nav>
        <Foot />
      </aside>
      <main id="content" tabIndex={-1}>
        <Banner />
        {children}
      </main>
    </div>
  );
}

function Workspaces() {
  const { workspace } = useSession();
  const { data } = useQuery(workspaces());
  const [, go] = useLocation();
  const names = data?.map(({ name }) => name) ?? [];
  const all = names.includes(workspace) ? names : [workspace, ...names];
  return (
    <label className="workspaces">
      <span className="only-heard">Workspace</span>
      <select value={workspace} onChange={(event) => go(path(event.target.value))} disabled={all.length < 2}>
        {all.map((name) => <option key={name}>{name}</option>)}
      </select>
    </label>
  );
}

function Banner() {
  const connection = useConnection();
  // A server that is started anew is away for a moment; most of the time nobody needs to know.
  const [said, say] = useState(false);
  useEffect(() => {
    if (connection !== "away") return say(false);
    const timer = setTimeout(() => say(true), 700);
    return () => clearTimeout(timer);
  }, [connection]);
  return (
    <div role="status" aria-live="polite">
      {said && (
        <p className="banner">
          <span className="dot" aria-hidden="true" />
          The server does not answer. What is shown is what was known last; it goes on by itself when the server is back.
        </p>
      )}
    </div>
  );
}

const THEMES: [Theme, string, string][] = [
  ["auto", "As the system", "auto"],
  ["light", "Light", "sun"],
  ["dark", "Dark", "moon"],
];

function Foot() {
  const { me } = useSession();
  const queries = useQueryClient();
  const { data } = useQuery(about());
  const [chosen, set] = useState(theme());
  const signOut = () => {
    hold(undefined);
    queries.clear();
    void queries.invalidateQueries();
    window.location.assign("/");
  };
  return (
    <div className="foot">
      <div role="radiogroup" aria-label="Colours" className="themes">
        {THEMES.map(([name, title, icon]) => (
          <label key={name} title={title}>
            <input
              type="radio"
              name="theme"
              className="only-heard"
              checked={chosen === name}
              onChange={() => {
                choose(name);
                set(name);
              }}
            />
            <Icon name={icon} />
            <span className="only-heard">{title}</span>
          </label>
        ))}
      </div>
      <div className="who">
        <span>
          {me.signed_in ? me.name : "this machine"}
          <span className="faint"> {me.role}</span>
        </span>
        {me.signed_in && <Button look="quiet" icon="signout" label="Sign out" onClick={signOut} />}
      </div>
      {data && <span className="faint version">moorline {data.version}</span>}
    </div>
  );
}

// Who uses the portal, in which workspace, and what that lets them do.

import { useQuery, useQueryClient } from "@tanstack/react-query";
import { createContext, type ReactNode, useContext, useEffect, useMemo } from "react";
import { Refusal } from "./client";
import { follow } from "./live";
import { about, me, type Me } from "./queries";
import { SignIn } from "../pages/sign_in";
import { Trouble, Waiting } from "../ui/parts";

export type Deed = "read" | "write" | "keys" | "secrets" | "workspaces" | "tokens" | "score";

interface Session {
  me: Me;
  workspace: string;
  may: (deed: Deed) => boolean;
  /** A page of this workspace. */
  at: (...parts: string[]) => string;
}

const Context = createContext<Session | undefined>(undefined);

export function useSession(): Session {
  const session = useContext(Context);
  if (!session) throw new Error("a page outside a session");
  return session;
}

/** Shows its children to those who may come in, and a door to all others. */
export function Session({ workspace, children }: { workspace: string; children: ReactNode }) {
  const who = useQuery(me());
  const queries = useQueryClient();
  const known = who.data;
  useEffect(() => {
    if (!known) return;
    const stop = new AbortController();
    void follow(workspace, queries, stop.signal);
    return () => stop.abort();
  }, [workspace, known?.name, queries]);
  const session = useMemo<Session | undefined>(
    () =>
      known && {
        me: known,
        workspace,
        may: (deed) => known.may.includes(deed),
        at: (...parts) => path(workspace, ...parts),
      },
    [known, workspace],
  );
  if (session && !who.isError) return <Context.Provider value={session}>{children}</Context.Provider>;
  if (who.error instanceof Refusal && who.error.status === 401) return <SignIn />;
  if (session) return <Context.Provider value={session}>{children}</Context.Provider>;
  if (who.isError) {
    return (
      <main className="door">
        <Trouble error={who.error}>
          <p>
            <button type="button" className="button" onClick={() => void who.refetch()}>Try again</button>
          </p>
        </Trouble>
      </main>
    );
  }
  return <Waiting what="Connecting" />;
}

export function path(workspace: string, ...parts: string[]): string {
  return `/w/${[workspace, ...parts].map(encodeURIComponent).join("/")}`;
}

/** The workspace to begin with. */
export function useDefaultWorkspace(): string | undefined {
  return useQuery(about()).data?.default_workspace;
}

import { useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useEffect, useRef, useState } from "react";
import { answer, api, Refusal } from "../api/client";
import { hold, token } from "../api/token";
import { Mark } from "../ui/icon";
import { Button, Field, Trouble } from "../ui/parts";

/** The door of a server that asks for a token. */
export function SignIn() {
  const queries = useQueryClient();
  const [text, setText] = useState("");
  const [error, setError] = useState<unknown>();
  const [busy, setBusy] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  const expired = useRef(token() !== undefined);
  useEffect(() => {
    document.title = "Sign in · Moorline";
    input.current?.focus();
  }, []);

  const signIn = async (event: FormEvent) => {
    event.preventDefault();
    const before = token();
    setBusy(true);
    setError(undefined);
    hold(text.trim());
    try {
      queries.setQueryData(["me"], await answer(api.GET("/api/v1/caller")));
    } catch (error) {
      hold(before);
      input.current?.select();
      setError(error instanceof Refusal && error.status === 401 ? new Error("this token is not valid, or not any more") : error);
    } finally {
      setBusy(false);
    }
  };

  return (
    <main className="door">
      <form className="card" onSubmit={(event) => void signIn(event)}>
        <div className="door-mark">
          <Mark size={34} />
          <h1>Sign in to Moorline</h1>
        </div>
        {expired.current && !error && <p className="faint">The token of this tab is not good any more.</p>}
        <Field label="Token" hint={<>An owner makes one: <code>moorline token create --name me --role contributor</code></>}>
          {(id) => (
            <input
              ref={input}
              id={id}
              type="password"
              autoComplete="off"
              spellCheck={false}
              placeholder="mrl_…"
              required
              maxLength={512}
              value={text}
              onChange={(event) => setText(event.target.value)}
            />
          )}
        </Field>
        {error !== undefined && <Trouble error={error} />}
        <Button look="primary" type="submit" busy={busy} disabled={text.trim() === ""}>Sign in</Button>
        <p className="hint">It stays in this tab, and is gone with it.</p>
      </form>
    </main>
  );
}

import { useState } from "react";
import { answer, api, type Schemas } from "../api/client";
import type { Endpoint } from "../api/queries";
import { useSession } from "../api/session";
import { Button, Card, Code, Confirm, Copy, Trouble } from "../ui/parts";
import { useSay } from "../ui/toast";

/** What callers show. It is asked for when somebody wants to see it, and forgotten with the page. */
export function Keys({ endpoint }: { endpoint: Endpoint }) {
  const { workspace } = useSession();
  const say = useSay();
  const [keys, setKeys] = useState<Schemas["Keys"]>();
  const [token, setToken] = useState<Schemas["EndpointToken"]>();
  const [error, setError] = useState<unknown>();
  const [renewing, renew] = useState<"Primary" | "Secondary">();
  const path = { workspace, endpoint: endpoint.name };
  const byKey = endpoint.auth_mode === "key";
  const show = async () => {
    setError(undefined);
    try {
      if (byKey) setKeys(await answer(api.POST("/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}/keys", { params: { path } })));
      else setToken(await answer(api.POST("/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}/token", { params: { path } })));
    } catch (error) {
      setError(error);
    }
  };
  return (
    <Card title={byKey ? "Keys" : "Token"} actions={!keys && !token && <Button icon="key" onClick={() => void show()}>{byKey ? "Show the keys" : "Make a token"}</Button>}>
      <p className="hint">
        {byKey
          ? "Either is good. Make the one anew that nobody uses, give it to all callers, then make the other one anew."
          : "Callers of this endpoint show a token, which is good for an hour."}{" "}
        Whoever looks is written to the server's log.
      </p>
      {error !== undefined && <Trouble error={error} />}
      {keys && (
        <ul className="lines">
          {([["Primary", keys.primaryKey], ["Secondary", keys.secondaryKey]] as const).map(([which, key]) => (
            <li key={which}>
              <span className="share-name">{which}</span>
              <code className="grow cut">{key}</code>
              <Copy text={key} label={`Copy the ${which.toLowerCase()} key`} />
              <Button look="quiet" onClick={() => renew(which)}>Make anew</Button>
            </li>
          ))}
        </ul>
      )}
      {token && <Code text={token.accessToken} label="token" />}
      <h3>Call it</h3>
      <Code
        label="command"
        text={`curl ${endpoint.scoring_uri} \\\n  -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \\\n  -d @request.json`}
      />
      <Confirm
        title={`Make the ${renewing?.toLowerCase()} key anew`}
        verb="Make anew"
        open={renewing !== undefined}
        close={() => renew(undefined)}
        act={async () => {
          setKeys(
            await answer(
              api.POST("/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}/regenerate-keys", { params: { path }, body: { keyType: renewing ?? "Primary" } }),
            ),
          );
          say(`The ${renewing?.toLowerCase()} key is a new one`);
        }}
      >
        <p>The old one stops working at once, for whoever still uses it.</p>
      </Confirm>
    </Card>
  );
}

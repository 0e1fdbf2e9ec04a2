import { useQuery } from "@tanstack/react-query";
import { lazy, Suspense, useEffect } from "react";
import { Redirect, Route, Switch, useLocation, useParams } from "wouter";
import { path, Session, useDefaultWorkspace } from "./api/session";
import { about } from "./api/queries";
import { Boundary } from "./ui/boundary";
import { Empty, Page, Trouble, Waiting } from "./ui/parts";
import { Toasts } from "./ui/toast";
import { Shell } from "./ui/shell";
import { Overview } from "./pages/overview";

// The first page comes alone; the others follow once it stands.
const Models = lazy(() => import("./pages/models").then((page) => ({ default: page.Models })));
const Model = lazy(() => import("./pages/model").then((page) => ({ default: page.Model })));
const Endpoints = lazy(() => import("./pages/endpoints").then((page) => ({ default: page.Endpoints })));
const Endpoint = lazy(() => import("./pages/endpoint").then((page) => ({ default: page.Endpoint })));
const Deployments = lazy(() => import("./pages/deployments").then((page) => ({ default: page.Deployments })));
const Deployment = lazy(() => import("./pages/deployment").then((page) => ({ default: page.Deployment })));
const Computes = lazy(() => import("./pages/computes").then((page) => ({ default: page.Computes })));
const Compute = lazy(() => import("./pages/compute").then((page) => ({ default: page.Compute })));
const Devices = lazy(() => import("./pages/devices").then((page) => ({ default: page.Devices })));
const Device = lazy(() => import("./pages/device").then((page) => ({ default: page.Device })));
const Images = lazy(() => import("./pages/images").then((page) => ({ default: page.Images })));
const Image = lazy(() => import("./pages/image").then((page) => ({ default: page.Image })));

export function App() {
  useEffect(() => {
    const find = (event: KeyboardEvent) => {
      const within = event.target instanceof HTMLElement && event.target.closest("input, textarea, select, dialog");
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || within) return;
      const filter = document.querySelector<HTMLInputElement>("input[data-filter]");
      if (filter) {
        event.preventDefault();
        filter.focus();
      }
    };
    window.addEventListener("keydown", find);
    return () => window.removeEventListener("keydown", find);
  }, []);
  return (
    <Toasts>
      <Switch>
        <Route path="/w/:workspace/*?">
          <InWorkspace />
        </Route>
        <Route>
          <Begin />
        </Route>
      </Switch>
    </Toasts>
  );
}

/** `/` leads to the workspace that clients use where they are told no other. */
function Begin() {
  const workspace = useDefaultWorkspace();
  const { error, refetch } = useQuery(about());
  if (workspace) return <Redirect to={path(workspace)} replace />;
  if (!error) return <Waiting what="Connecting" />;
  return (
    <main className="door">
      <Trouble error={error}>
        <p>
          <button type="button" className="button" onClick={() => void refetch()}>Try again</button>
        </p>
      </Trouble>
    </main>
  );
}

function InWorkspace() {
  const workspace = decodeURIComponent(useParams<{ workspace: string }>().workspace);
  const [location] = useLocation();
  const page = (name: string) => `/w/:workspace/${name}`;
  return (
    <Session key={workspace} workspace={workspace}>
      <Shell>
        <Boundary at={location}>
        <Suspense fallback={<Waiting />}>
          <Switch>
            <Route path="/w/:workspace"><Overview /></Route>
            <Route path={page("models")}><Models /></Route>
            <Route path={page("models/:name/:version?")}><Model /></Route>
            <Route path={page("endpoints")}><Endpoints /></Route>
            <Route path={page("endpoints/:endpoint/:part?")}><Endpoint /></Route>
            <Route path={page("deployments")}><Deployments /></Route>
            <Route path={page("deployments/:endpoint/:deployment")}><Deployment /></Route>
            <Route path={page("computes")}><Computes /></Route>
            <Route path={page("computes/:name")}><Compute /></Route>
            <Route path={page("devices")}><Devices /></Route>
            <Route path={page("devices/:name")}><Device /></Route>
            <Route path={page("images")}><Images /></Route>
            <Route path={page("images/:image")}><Image /></Route>
            <Route>
              <Page title="Nothing is here">
                <Empty>There is no such page.</Empty>
              </Page>
            </Route>
          </Switch>
        </Suspense>
        </Boundary>
      </Shell>
    </Session>
  );
}

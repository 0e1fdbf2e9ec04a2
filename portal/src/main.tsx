import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./app";
import { Refusal } from "./api/client";
import { beginTheme } from "./ui/theme";
import "./style.css";

beginTheme();

const queries = new QueryClient({
  defaultOptions: {
    queries: {
      // Changes are told; see live.ts.
      staleTime: 30_000,
      refetchOnWindowFocus: false,
      // A server that is away is asked by live.ts, which has everything asked for anew when it is back.
      networkMode: "always",
      retry: (count, error) => error instanceof Refusal && [502, 503, 504].includes(error.status) && count < 2,
    },
    mutations: { networkMode: "always" },
  },
});

const root = document.getElementById("root");
if (root) {
  createRoot(root).render(
    <StrictMode>
      <QueryClientProvider client={queries}>
        <App />
      </QueryClientProvider>
    </StrictMode>,
  );
}

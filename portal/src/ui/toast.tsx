// What was just done, said once, with a way back where there is one.

import { createContext, type ReactNode, useCallback, useContext, useMemo, useRef, useState } from "react";
import { Button } from "./parts";

interface Said {
  id: number;
  text: string;
  bad?: boolean;
  undo?: () => void;
}

type Say = (text: string, more?: { bad?: boolean; undo?: () => void }) => void;

const Context = createContext<Say>(() => undefined);

export const useSay = () => useContext(Context);

const SHOWN = 8_000;
const MOST = 3;

export function Toasts({ children }: { children: ReactNode }) {
  const [said, set] = useState<Said[]>([]);
  const next = useRef(0);
  const drop = useCallback((id: number) => set((all) => all.filter((one) => one.id !== id)), []);
  const say = useCallback<Say>(
    (text, more) => {
      const id = next.current++;
      set((all) => [...all.slice(1 - MOST), { id, text, ...more }]);
      setTimeout(() => drop(id), SHOWN);
    },
    [drop],
  );
  return (
    <Context.Provider value={useMemo(() => say, [say])}>
      {children}
      <div className="toasts" role="status" aria-live="polite">
        {said.map(({ id, text, bad, undo }) => (
          <div key={id} className={`toast${bad ? " bad" : ""}`}>
            <span>{text}</span>
            {undo && (
              <Button
                look="quiet"
                icon="undo"
                onClick={() => {
                  drop(id);
                  undo();
                }}
              >
                Undo
              </Button>
            )}
            <Button look="quiet" icon="close" label="Dismiss" onClick={() => drop(id)} />
          </div>
        ))}
      </div>
    </Context.Provider>
  );
}

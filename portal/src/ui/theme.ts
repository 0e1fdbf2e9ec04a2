// Light, dark, or as the system has it: a choice that stays in this browser.

export type Theme = "auto" | "light" | "dark";

const KEY = "moorline.theme";

export function theme(): Theme {
  try {
    const kept = localStorage.getItem(KEY);
    return kept === "light" || kept === "dark" ? kept : "auto";
  } catch {
    return "auto";
  }
}

export function choose(next: Theme): void {
  try {
    if (next === "auto") localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, next);
  } catch {
    // Then it is for this page alone.
  }
  show(next);
}

export function beginTheme(): void {
  show(theme());
}

function show(theme: Theme): void {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

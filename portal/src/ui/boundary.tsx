import { Component, type ReactNode } from "react";

/** A page that broke, or a part of it that is not on the server any more since that was replaced by a newer one. */
export class Boundary extends Component<{ children: ReactNode; at: string }, { error?: Error; at: string }> {
  override state: { error?: Error; at: string } = { at: this.props.at };

  static getDerivedStateFromError(error: Error) {
    return { error };
  }

  static getDerivedStateFromProps(props: { at: string }, state: { error?: Error; at: string }) {
    // Another page is another try.
    return props.at === state.at ? null : { error: undefined, at: props.at };
  }

  override render() {
    const { error } = this.state;
    if (!error) return this.props.children;
    const replaced = /import|module|fetch/i.test(error.message);
    return (
      <div className="trouble" role="alert">
        <div>
          <h1>This page could not be shown</h1>
          <p>{replaced ? "The server may have been replaced by another version; loading the page anew gets the pages of that one." : error.message}</p>
          <p>
            <button type="button" className="button" onClick={() => window.location.reload()}>Load it anew</button>
          </p>
        </div>
      </div>
    );
  }
}

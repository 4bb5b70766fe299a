import { useEffect, useReducer } from "react";
import { createRoot } from "react-dom/client";
import { EMPTY, reduce, textOf } from "../../../browser/state.js";

function Answer({ stream }) {
  const [state, dispatch] = useReducer(reduce, EMPTY);
  useEffect(() => {
    const read = async () => {
      for await (const event of stream) dispatch(event);
    };
    read();
  }, [stream]);
  return <p>{textOf(state, "summary")}</p>;
}

export const react = (element, stream) => createRoot(element).render(<Answer stream={stream} />);

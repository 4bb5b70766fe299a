import { createApp, h, shallowRef } from "vue";
import { EMPTY, reduce, textOf } from "../../../browser/state.js";

export async function vue(element, stream) {
  const state = shallowRef(EMPTY);
  createApp(() => h("p", textOf(state.value, "summary"))).mount(element);
  for await (const event of stream) state.value = reduce(state.value, event);
}

// The calls of the frontend: one axios instance a service, the token from the session, a repetition on 401 and on nothing else.

import axios from "axios";

export const session = {
  user: new URLSearchParams(location.search).get("user") ?? "ada",
  check: () => new Promise((resolve) => setTimeout(resolve, 20)), // as long as a session's lock takes
  async refresh() {
    const { data } = await axios.get(`/demo/token?user=${session.user}`);
    localStorage.setItem("token", data.token);
  },
};

const service = () => {
  const instance = axios.create({ baseURL: "/api", headers: { "Content-Type": "application/json" } });
  instance.interceptors.request.use((config) => {
    config.headers.Authorization = `Bearer ${localStorage.getItem("token") ?? ""}`;
    return config;
  });
  instance.interceptors.response.use(null, async (error) => {
    if (error.response?.status !== 401) throw error;
    await session.refresh();
    return instance.request(error.config);
  });
  return instance;
};

const cases = service();
const workflow = service();

export const listCases = async () => (await cases.get("/cases")).data.cases;
export const createCase = async (text) => (await cases.post("/cases", { case_text: text })).data;
export const openCase = async (id) => (await cases.get(`/cases/${id}/details`)).data;
export const say = async (id, role, content) => (await cases.post(`/cases/${id}/messages`, { role, content })).data;
export const start = async (id) => (await workflow.post(`/cases/${id}/workflow/start`)).data;
export const approve = async (id, stage) => (await workflow.post(`/cases/${id}/workflow/stages/${stage}/approve`)).data;
export const work = async (id, stage, body) =>
  (await workflow.post(`/cases/${id}/workflow/stages/${stage}/process`, body)).data;

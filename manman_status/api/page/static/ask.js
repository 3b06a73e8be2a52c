// What scripts ask of the api.

const LONGEST_MS = 20_000;

// The text of the answer; undefined when there is none, or a refusal. The bar says that nothing
// answers.
export async function ask(path) {
  try {
    const answer = await fetch(path, { signal: AbortSignal.timeout(LONGEST_MS) });
    if (answer.status === 401) location.reload();
    return answer.ok ? await answer.text() : undefined;
  } catch {
    return undefined;
  }
}

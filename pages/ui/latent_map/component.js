// What Streamlit calls: again, on the same DOM, whenever the payload changes.

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const root = parentElement.querySelector(".latent-map");
  if (!root.map) root.map = new LatentMap(root);
  root.map.tell = setTriggerValue; // (name, value): to the server
  if (data) root.map.load(unpack(data)); // none has come yet while one map takes another's place
  return () => root.map?.destroy();
}

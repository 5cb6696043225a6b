import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Collection;
import java.util.List;
import org.opensearch.analysis.common.CommonAnalysisPlugin;
import org.opensearch.common.settings.Settings;
import org.opensearch.env.Environment;
import org.opensearch.node.Node;
import org.opensearch.painless.PainlessPlugin;
import org.opensearch.plugins.Plugin;
import org.opensearch.transport.Netty4Plugin;

/** OpenSearch out of its jars, on the loopback: OneNode FOLDER HTTP_PORT TRANSPORT_PORT. */
public class OneNode {
  static class WithPlugins extends Node {
    WithPlugins(Environment environment, Collection<Class<? extends Plugin>> plugins) {
      super(environment, plugins, true);
    }
  }

  public static void main(String[] arguments) throws Exception {
    Path home = Path.of(arguments[0]);
    for (String folder : List.of("config", "modules", "plugins")) Files.createDirectories(home.resolve(folder));
    Settings settings = Settings.builder()
        .put("path.home", home.toString())
        .put("path.data", home.resolve("data").toString())
        .put("node.name", "one")
        .put("cluster.name", "wirespan")
        .put("discovery.type", "single-node")
        .put("network.host", "127.0.0.1")
        .put("http.port", Integer.parseInt(arguments[1]))
        .put("transport.port", Integer.parseInt(arguments[2]))
        .put("http.type", "netty4")
        .put("transport.type", "netty4")
        .put("cluster.routing.allocation.disk.threshold_enabled", false)
        .put("node.processors", 2)
        .build();
    Node node = new WithPlugins(
        new Environment(settings, home.resolve("config")),
        List.of(Netty4Plugin.class, PainlessPlugin.class, CommonAnalysisPlugin.class));
    node.start();
    Thread.currentThread().join();
  }
}

// `java Client.java CASES ORIGIN…`, as python_clients.py: Java's own client.
import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HexFormat;
import java.util.List;

public class Client {
    static HttpRequest.BodyPublisher body(String kind) {
        byte[] large = new byte[1 << 18];
        for (int at = 0; at < large.length; at++) large[at] = (byte) at;
        byte[] pieces = ("one " + "two ".repeat(5000) + "three").getBytes();
        return switch (kind) {
            case "json" -> HttpRequest.BodyPublishers.ofString("{\"a\": [1, \"\u00fc\"]}");
            case "large" -> HttpRequest.BodyPublishers.ofByteArray(large);
            case "streamed" -> HttpRequest.BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(pieces));
            default -> HttpRequest.BodyPublishers.noBody();
        };
    }

    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int number = 1; number < arguments.length; number++) {
            String origin = arguments[number];
            for (String line : Files.readAllLines(Path.of(arguments[0]))) {
                String[] row = line.split("\t");
                HttpRequest.Builder asked = HttpRequest.newBuilder(URI.create(origin + row[2]));
                if (!row[3].equals("-")) asked.header("content-type", row[3].equals("json") ? "application/json" : "application/x-own");
                HttpResponse<byte[]> reply = client.send(asked.method(row[1], body(row[3])).build(), HttpResponse.BodyHandlers.ofByteArray());
                List<String> fields = new ArrayList<>();
                reply.headers().map().forEach((name, values) -> values.forEach(value -> fields.add(name.toLowerCase() + ": " + value)));
                Collections.sort(fields);
                String sha = HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(reply.body()));
                String text = new String(reply.body(), StandardCharsets.ISO_8859_1).replace(origin.substring(7), "ORIGIN");
                String shown = reply.body().length < 4096 ? text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") : sha;
                System.out.println(String.join("\t", origin, row[0], "" + reply.statusCode(), "" + reply.body().length, shown, String.join("\u001f", fields)));
            }
        }
    }
}

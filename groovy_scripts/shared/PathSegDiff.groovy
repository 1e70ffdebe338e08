/*
 * What the scripts of QuPath's menu "PathSegDiff" share: the server on this machine, found or
 * started, its jobs, and how objects of ours are known. Plain JDK and Groovy 4 or 5, no QuPath.
 */

import groovy.transform.CompileStatic
import java.net.http.HttpClient
import java.net.http.HttpRequest
import java.net.http.HttpResponse
import java.nio.file.Files
import java.nio.file.NoSuchFileException
import java.nio.file.StandardCopyOption
import java.time.Duration
import java.util.concurrent.TimeUnit
import java.util.zip.GZIPInputStream

/** A server of ours and its jobs. */
class PathSegDiff {

    static final String VERSION = '@VERSION@'
    static final String INSTALL = 'run "qupath-pathsegdiff scripts install" again'
    static final int START_SECONDS = 60
    static final int END_SECONDS = 15
    static final int POLL_MILLISECONDS = 700
    static final int CONNECT_SECONDS = 5
    static final int ANSWER_SECONDS = 60
    static final int FETCH_SECONDS = 600
    static final int OUTAGES = 3  // that one job survives
    static final int UNAUTHORIZED = 401

    /** What a user can meet and mend: one sentence with the remedy. */
    static class Trouble extends RuntimeException {
        Trouble(String sentence) { super(sentence) }
    }

    /** The server on this machine may not read an image's folder; its user can open it. */
    static class Closed extends Trouble {

        final String folder

        Closed(String sentence, String folder) {
            super(sentence)
            this.folder = folder
        }
    }

    /** Nobody answers at the server's address. */
    static class NoAnswer extends Trouble {
        NoAnswer(String sentence) { super(sentence) }
    }

    /** The user, or somebody else with the right to, cancelled the job. */
    static class Cancelled extends Trouble {
        Cancelled(String sentence) { super(sentence) }
    }

    final File home
    final Closure say
    private HttpClient client
    private Map connection

    /** home: the folder of connection.json and launcher.json; say: is told sentences. */
    PathSegDiff(File home, Closure say) {
        this.home = home
        this.say = say
    }

    // ---- the server ---------------------------------------------------------------------------

    /** Find the server, or start one; return what it says of its health. */
    Map connect() {
        Map health = running() ?: start()
        health.version == VERSION ? health : withOurVersion(health)
    }

    /** Return the health of the server that runs and lets us in; null where there is none. */
    Map running() {
        connection = readConnection()
        if (connection == null) {
            return null
        }
        try {
            Map health = (Map) get('/v1/health')
            if (health.name == 'qupath-pathsegdiff') {
                get('/v1/jobs')  // with our token: another user's server may have the port by now
                return health
            }
        } catch (Trouble nobody) {
            if (!isLocal(connection.url as String)) {
                throw nobody
            }
        }
        connection = null
        null
    }

    private Map start() {
        List command = launcher().command as List
        File log = new File(home, 'server/serve.log')
        say("starting the server (its log: $log)")
        Process process = launch(command, log)
        long deadline = seconds() + START_SECONDS
        while (seconds() < deadline) {
            Thread.sleep(250)
            Map health = running()
            if (health != null) {
                return health
            }
            if (!process.alive) {
                // Two scripts at once start two servers: one of them yields to the other.
                deadline = Math.min(deadline, seconds() + 5)
            }
        }
        String why = process.alive ? "it did not answer within $START_SECONDS s" : lastLine(log)
        throw new Trouble("the server did not start: $why; look into $log, or run" +
            ' "qupath-pathsegdiff doctor"')
    }

    /** Seconds of a clock that nobody sets: good for how long, not for when. */
    private static long seconds() { TimeUnit.NANOSECONDS.toSeconds(System.nanoTime()) }

    private Process launch(List command, File log) {
        File program = new File(command[0].toString())
        if (program.absolute && !program.canExecute()) {
            throw new Trouble("the server cannot be started, for $program is gone; $INSTALL")
        }
        log.parentFile.mkdirs()
        // In a session of its own, so that Ctrl-C in QuPath's terminal does not end it as well.
        File setsid = new File('/usr/bin/setsid')
        List argv = (setsid.canExecute() ? [setsid.path] : []) + command*.toString()
        try {
            ProcessBuilder builder = new ProcessBuilder(argv as List<String>)
            builder.environment().put('QUPATH_PATHSEGDIFF_HOME', home.absolutePath)
            builder.directory(home).redirectErrorStream(true)
            Process process = builder.redirectOutput(ProcessBuilder.Redirect.appendTo(log)).start()
            process.outputStream.close()
            return process
        } catch (IOException error) {
            throw new Trouble("the server cannot be started (${error.message}); $INSTALL")
        }
    }

    /** Restart a server of another version if it is idle and what we would start is ours. */
    private Map withOurVersion(Map health) {
        String differs = "the server is of version ${health.version}, these scripts of $VERSION"
        Long pid = connection.pid as Long
        ProcessHandle handle = ProcessHandle.of(pid ?: -1L).orElse(null)
        if (launcher().version != VERSION || handle == null || !isLocal(connection.url as String)) {
            throw new Trouble("$differs; $INSTALL, and restart the server")
        }
        if (isBusy()) {
            throw new Trouble("$differs; run this again when its jobs are done, and it is restarted")
        }
        say("$differs: it is idle, and is restarted")
        end(handle)
        Map fresh = running() ?: start()
        if (fresh.version != VERSION) {
            throw new Trouble("$differs; $INSTALL, and restart the server")
        }
        fresh
    }

    private boolean isBusy() {
        try {
            return jobs().any { it.state in ['queued', 'running'] }
        } catch (NoAnswer ignored) {
            return false  // another script has just ended it
        }
    }

    /** End a server, by force if it must be (jobs survive that): while it answers none takes its place. */
    private static void end(ProcessHandle server) {
        for (boolean byForce : [false, true]) {
            byForce ? server.destroyForcibly() : server.destroy()
            long deadline = seconds() + END_SECONDS
            while (server.alive && seconds() < deadline) {
                Thread.sleep(100)
            }
            if (!server.alive) {
                return
            }
        }
        throw new Trouble("the server (process ${server.pid()}) does not end; end it, and run this again")
    }

    private Map launcher() {
        File file = new File(home, 'launcher.json')
        try {
            Map read = (Map) Json.read(file.getText('UTF-8'))
            if (read.command instanceof List && read.command) {
                return read
            }
        } catch (IOException | IllegalArgumentException | ClassCastException ignored) {
            // said below
        }
        throw new Trouble("$file does not say how to start the server; $INSTALL")
    }

    /** Return what connection.json says; null where no server wrote one that can be used. */
    private Map readConnection() {
        File file = new File(home, 'connection.json')
        try {
            if (!isOurs(file)) {
                throw new Trouble("$file belongs to another user; set QUPATH_PATHSEGDIFF_HOME to a" +
                    ' folder of your own')
            }
            Map read = (Map) Json.read(file.getText('UTF-8'))
            if (read.url instanceof String && read.token instanceof String) {
                return read
            }
        } catch (FileNotFoundException | NoSuchFileException absent) {
            if (file.exists()) {
                throw new Trouble("$file cannot be read (${absent.message}); make it readable for you")
            }
        } catch (IOException error) {
            throw new Trouble("$file cannot be read (${error.message}); make it readable for you")
        } catch (IllegalArgumentException | ClassCastException malformed) {
            say("$file is not what a server writes ($malformed.message) and counts as none")
        }
        null
    }

    private static boolean isOurs(File file) {
        if (System.getProperty('os.name').startsWith('Windows')) {
            return true  // owners of files are groups as often as users there
        }
        String owner = Files.getOwner(file.toPath()).name
        owner.isNumber() || owner in ['root', System.getProperty('user.name')]
    }

    private static boolean isLocal(String url) {
        URI.create(url).host in ['127.0.0.1', 'localhost', '[::1]']
    }

    private static String lastLine(File log) {
        List<String> lines = log.file ? log.readLines('UTF-8').findAll { it.trim() } : []
        lines ? lines.last().trim() : 'it ended at once'
    }

    // ---- jobs ---------------------------------------------------------------------------------

    /** Return the server's models, each a map with its heads. */
    List models() { ((Map) get('/v1/models')).models as List }

    /** Return the jobs, newest first. */
    List jobs() { ((Map) get('/v1/jobs')).jobs as List }

    Map job(String id) { (Map) get("/v1/jobs/$id") }

    /** Hand in a job; return it as the server has it. */
    Map submit(Map request) { (Map) send('POST', '/v1/jobs', request) }

    /**
     * Let the server of this home read the images in a folder, from now on. Not asked over HTTP: who
     * can write this file is the user.
     */
    void open(String folder) {
        File file = new File(home, 'projects.json')
        List folders = []
        try {
            Object read = file.file ? Json.read(file.getText('UTF-8')) : null
            folders = read instanceof Map && read.folders instanceof List ? read.folders : []
        } catch (IOException | IllegalArgumentException ignored) {
            // damaged: written anew
        }
        if (!folders.contains(folder)) {
            writeWhole(file, Json.write([folders: [folder] + folders]))
        }
    }

    Map cancel(String id) { (Map) send('DELETE', "/v1/jobs/$id", null) }

    /** Return the address of the server's page, good for one visit. */
    String page() { ((Map) send('POST', '/v1/codes', null)).url }

    /**
     * Wait until a job is done and return it. tell: is given the job whenever it was asked for;
     * isCancelled: says whether the user wants no more of it. An interrupted thread cancels the job.
     */
    Map await(String id, Closure tell, Closure isCancelled = { false }) {
        int outages = 0
        boolean asked = false
        try {
            while (true) {
                try {
                    boolean unwanted = !asked && isCancelled()
                    Map now = unwanted ? cancel(id) : job(id)
                    asked = asked || unwanted
                    tell(now)
                    if (now.state in ['done', 'failed', 'cancelled']) {
                        return finished(now)
                    }
                } catch (NoAnswer error) {
                    if (++outages > OUTAGES) {
                        throw error
                    }
                    say('the server went away; it is sought, or started again: jobs are kept')
                    connect()
                }
                Thread.sleep(POLL_MILLISECONDS)
            }
        } catch (InterruptedException stopped) {
            cancelQuietly(id)
            throw stopped
        }
    }

    private static Map finished(Map job) {
        if (job.state == 'failed') {
            throw new Trouble((((Map) job.error)?.message ?: 'the job failed; look at the server\'s page') as String)
        }
        if (job.state == 'cancelled') {
            throw new Cancelled('the job was cancelled; nothing was changed')
        }
        job
    }

    private void cancelQuietly(String id) {
        try {
            cancel(id)
        } catch (Trouble | InterruptedException ignored) {
            say('the server could not be told to cancel; "Cancel my jobs" does it')
        }
    }

    /** Return a finished job's objects as a stream of GeoJSON for QuPath; the caller closes it. */
    InputStream detections(String id) {
        request('GET', "/v1/jobs/$id/detections", null, FETCH_SECONDS)
    }

    /** Return a finished job's class areas. */
    Map classAreas(String id) { (Map) get("/v1/jobs/$id/class-areas") }

    /** Return in a few words where a job is. */
    static String progressOf(Map job) {
        if (job.state == 'queued') {
            return job.place ? "waiting, number ${job.place} in the queue" : 'waiting'
        }
        String tiles = job.tilesTotal ? ", ${job.tilesDone} of ${job.tilesTotal}" : ''
        String left = job.secondsLeft == null ? '' : ", about ${durationOf(job.secondsLeft as long)} left"
        "${job.state == 'running' ? job.stage ?: 'running' : job.state}$tiles$left"
    }

    private static String durationOf(long seconds) {
        seconds < 90 ? "$seconds s" : "${Math.round(seconds / 60d)} min"
    }

    // ---- HTTP ---------------------------------------------------------------------------------

    private Object get(String path) { send('GET', path, null) }

    private Object send(String method, String path, Map body) {
        request(method, path, body, ANSWER_SECONDS).withCloseable { InputStream stream ->
            Json.read(stream.getText('UTF-8'))
        }
    }

    /** Return the body of the answer, unpacked. Raises Trouble for all but success. */
    private InputStream request(String method, String path, Map body, int seconds) {
        String url = connection.url.toString().replaceAll('/+$', '')
        HttpRequest.Builder builder = HttpRequest.newBuilder(URI.create(url + path))
            .timeout(Duration.ofSeconds(seconds))
            .header('Authorization', "Bearer ${connection.token}")
            .header('Accept-Encoding', 'gzip')
        if (body != null) {
            builder.header('Content-Type', 'application/json')
        }
        builder.method(method, body == null ? HttpRequest.BodyPublishers.noBody()
            : HttpRequest.BodyPublishers.ofByteArray(Json.write(body).getBytes('UTF-8')))
        HttpResponse answer
        try {
            answer = clientFor(url).send(builder.build(), HttpResponse.BodyHandlers.ofInputStream())
        } catch (IOException error) {
            throw new NoAnswer("the server at $url does not answer" +
                " (${error.message ?: error.class.simpleName}); run \"Check the connection\"")
        }
        InputStream stream = unpacked(answer)
        if (answer.statusCode() >= 300) {
            throw refusal(answer.statusCode(), "$method $url$path", stream, isLocal(url))
        }
        stream
    }

    private static InputStream unpacked(HttpResponse answer) {
        InputStream stream = (InputStream) answer.body()
        boolean packed = answer.headers().firstValue('Content-Encoding').orElse('') == 'gzip'
        packed ? new GZIPInputStream(stream) : stream
    }

    private HttpClient clientFor(String url) {
        if (client == null) {
            HttpClient.Builder builder = HttpClient.newBuilder()
                .version(HttpClient.Version.HTTP_1_1)
                .connectTimeout(Duration.ofSeconds(CONNECT_SECONDS))
            if (isLocal(url)) {
                builder.proxy(HttpClient.Builder.NO_PROXY)
            }
            client = builder.build()
        }
        client
    }

    /** Return what a refusal (RFC 9457) says, or what can be said of any other. */
    private static Trouble refusal(int status, String asked, InputStream stream, boolean isLocal) {
        String text = stream.withCloseable { it.getText('UTF-8') }
        try {
            Object problem = Json.read(text)
            if (problem instanceof Map && problem.detail) {
                return problem.folder && isLocal ? new Closed(problem.detail, problem.folder)
                    : new Trouble(problem.detail)
            }
        } catch (IllegalArgumentException ignored) {
            // no JSON: said below
        }
        new Trouble(status == UNAUTHORIZED
            ? 'the server does not know this token any more; run the script again'
            : "the server answered $status to $asked; look at its log, or restart it")
    }

    // ---- what is known of class areas ---------------------------------------------------------

    /** What the names of our measurements of annotations begin with. */
    static final String PREFIX = 'PathSegDiff: '

    private static final int MANY = 1000  // more classes than any head has
    static final String AREA = ' area \u00b5m^2'
    static final List<String> COLUMNS = ['Image', 'Entry ID', 'Region', 'Region ID', 'Head', 'Class',
                                         'Area \u00b5m^2', 'Area %', 'Objects']
    /** Regions that no annotation stands for, and that are always there. */
    static final List<String> AUTOMATIC = ['tissue', 'slide']

    /** Return by region id the measurements that rows of class areas give an annotation. */
    static Map<String, Map<String, Double>> measurementsOf(List rows) {
        rows.findAll { !it.silent }.groupBy { it.region_id }.collectEntries { region, its ->
            [region, named(its.collect { [it.head, it.class_name, [(AREA): it.area_um2, ' %': it.percent]] })]
        }
    }

    /** Return measurements by name; the head goes before a class that several heads have. */
    private static Map<String, Double> named(List values) {
        Map count = values.countBy { it[1] }
        Map found = [:]
        values.each { head, kind, parts ->
            String label = count[kind] == 1 || !head ? kind : "$head: $kind"
            parts.each { part, value -> found["$PREFIX$label$part".toString()] = value as double }
        }
        found
    }

    /** Return the rows that a job tells of, named as `run` stores them; `silent`: not measured. */
    static List<Map> rowsOf(Map classAreas) {
        classAreas.rows.collect { row ->
            Map measured = classAreas.measurements[row.regionId] ?: [:]
            boolean shown = ['', "${row.head}: "].any {
                measured.containsKey("$PREFIX$it${row['class']}$AREA".toString())
            }
            [region_id: row.regionId, head: row.head, class_name: row['class'], area_um2: row.areaUm2,
             percent: row.percent, silent: !shown]
        }
    }

    /**
     * Return the measurements of ours that an annotation has once these rows are new: those of other
     * heads stay, as in `run`. Measurements do not name their head unless several have such a class;
     * then it is known by its objects, or by its classes, all of which have values.
     * old: its measurements by name. rows: of this annotation. objects: pairs of head and class of
     * the objects of ours in it, old ones. models: as the server tells of them, if it does. known:
     * heads that have objects anywhere in the image.
     */
    static Map<String, Double> measured(Map old, List rows, Collection objects, List models, Set known = []) {
        List shown = rows.findAll { !it.silent }
        Map anew = rows.groupBy { it.head }.collectEntries { head, its ->
            [head, its.findAll { !it.silent }*.class_name as Set]
        }
        Set classes = shown*.class_name as Set
        List kept = valuesOf(old, objects, models, known, anew)
            .findAll { head, kind, parts -> head ? !anew.containsKey(head) : !classes.contains(kind) }
        named(kept + shown.collect { [it.head, it.class_name, [(AREA): it.area_um2, ' %': it.percent]] })
    }

    /**
     * Return the values of ours among measurements, each as head, class, and numbers by unit. The
     * head is null if nothing tells it. known: heads that have objects anywhere in the image. anew:
     * heads that get new values, each with its classes that do.
     */
    static List valuesOf(Map old, Collection objects, List models, Set known = [], Map anew = [:]) {
        Map labels = labelsOf(old)
        Map others = others(labels.keySet(), anew, objects, headsOf(models, known), known)
        labels.collect { label, parts ->
            String head = (others.keySet() + anew.keySet()).find { label.startsWith("$it: ") }
            String kind = head ? label.substring(head.size() + 2) : label
            [head ?: others.find { it.value.contains(kind) }?.key, kind, parts]
        }
    }

    /** Return by what stands between our prefix and the unit the values of ours. */
    private static Map labelsOf(Map measurements) {
        Map labels = [:]
        measurements.each { name, value ->
            String unit = [AREA, ' %'].find { name.startsWith(PREFIX) && name.endsWith(it) }
            if (unit) {
                labels.computeIfAbsent(name[PREFIX.size()..<-unit.size()]) { [:] }[unit] = value
            }
        }
        labels
    }

    /** Return the classes of the other heads that have values, by head. */
    private static Map<String, Set> others(Set labels, Map anew, Collection objects, List heads, Set known) {
        Set classes = anew.values().sum([] as Set)
        Map<String, Set> found = [:]
        objects.each { head, kind -> found.computeIfAbsent(head) { [] as Set } << kind }
        Closure valued = { head, kind -> kind in labels || "$head: $kind".toString() in labels }
        boolean first = !classes.every { kind -> labels.any { it == kind || it.endsWith(": $kind") } }
        heads.each { head, its ->
            boolean seen = found.containsKey(head) || labels.any { it.startsWith("$head: ") }
            // All its classes have values, and those can be neither the new heads' own nor others'.
            boolean old = head in known && !anew.keySet().any { it in known }
            boolean alike = its.every { valued(head, it) } && (first || old || !classes.containsAll(its)) &&
                !found.values().sum([] as Set).containsAll(its)
            if (seen || alike) {
                found.computeIfAbsent(head) { [] as Set }.addAll(its)
            }
        }
        found.findAll { !anew.containsKey(it.key) }
    }

    /** Return all models' heads, each with the classes that it measures; the known first, then those with most. */
    private static List headsOf(List models, Set known) {
        models.collectMany { model ->
            model.heads.collect { [it.name, it.classes.findAll { kind -> kind.detections }*.name as Set] }
        }.toSorted { (it[0] in known ? 0 : MANY) - it[1].size() }
    }

    /** Return rows of strings as lines of aligned columns; numbers, from the fourth on, to the right. */
    static List<String> aligned(List<List<String>> rows, int names = 3) {
        List<Integer> widths = rows.transpose().collect { column -> column*.size().max() }
        rows.collect { row ->
            (0..<row.size()).collect {
                it < names ? row[it].padRight(widths[it]) : row[it].padLeft(widths[it])
            }.join('  ').replaceAll(' +$', '')
        }
    }

    /** Return the lines that tell a user what was found, from a job's class areas. */
    static List<String> tableOf(List rows) {
        List<List<String>> told = [['Region', 'Head', 'Class', 'Area mm^2', '%', 'Objects']]
        told.addAll(rows.collect { row ->
            [row.region.toString(), row.head.toString(), row['class'].toString(),
             fixed(row.areaUm2 / 1e6d, 4), fixed(row.percent, 1), row.objects.toString()]
        })
        aligned(told)
    }

    /** Return a number with so many decimals, rounded as the command `run` does. */
    static String fixed(Number value, int decimals) {
        new BigDecimal(value as double).setScale(decimals, java.math.RoundingMode.HALF_EVEN).toPlainString()
    }

    /** Return how many of something there are, in words. */
    static String counted(Number count, String what) { "$count $what${count == 1 ? '' : 's'}" }

    /** Write rows of strings with tabs between them, whole or not at all. */
    static void writeTable(File file, List<List<String>> rows) {
        writeWhole(file, rows.collect { row -> row.collect { quoted(it) }.join('\t') + '\n' }.join(''))
    }

    private static String quoted(String field) {
        field =~ /[\t\n\r"]/ ? '"' + field.replace('"', '""') + '"' : field
    }

    /** Write a file of text, whole or not at all. */
    static void writeWhole(File file, String text) {
        try {
            Files.createDirectories(file.parentFile.toPath())
            File beside = new File(file.parentFile, ".${file.name}.${ProcessHandle.current().pid()}.tmp")
            try {
                beside.setText(text, 'UTF-8')
                Files.move(beside.toPath(), file.toPath(), StandardCopyOption.REPLACE_EXISTING)
            } finally {
                beside.delete()
            }
        } catch (IOException error) {
            throw new Trouble("cannot write $file (${error.message}); make its folder writable, or make" +
                ' room on its disk')
        }
    }

    /** Whose objects are: what their ids say. See `detections.py` of the package. */
    @CompileStatic
    static class Keys {

        static final long PREFIX = 0x70736466L  // "psdf"

        static boolean isOurs(UUID id) {
            (id.mostSignificantBits >>> 32) == PREFIX && ((id.mostSignificantBits >>> 12) & 0xF) == 8
        }

        static int headOf(UUID id) { (int) ((id.mostSignificantBits >>> 16) & 0xFFFF) }

        static int regionOf(UUID id) {
            (int) (((id.mostSignificantBits & 0xFFF) << 12) | ((id.leastSignificantBits >>> 50) & 0xFFF))
        }

        static int head(String name) { (int) bits(name, 16) }

        static int region(String id) { (int) bits(id, 24) }

        /** Return the first bits of the BLAKE2b digest (RFC 7693, 8 bytes long) of a text. */
        static long bits(String text, int count) { Blake2b.digest8(text.getBytes('UTF-8')) >>> (64 - count) }

        /**
         * Return which of the ids of ours are replaced: of these heads, and of a region that is done
         * anew or no longer there. All are keys.
         */
        static boolean isReplaced(UUID id, Set<Integer> heads, Set<Integer> anew, Set<Integer> present) {
            if (!isOurs(id) || !heads.contains(headOf(id))) {
                return false
            }
            int region = regionOf(id)
            anew.contains(region) || !present.contains(region)
        }
    }

    /** The hash function that the JDK lacks; eight bytes of it, without a key. */
    @CompileStatic
    static class Blake2b {

        private static final long[] IV = [
            '6a09e667f3bcc908', 'bb67ae8584caa73b', '3c6ef372fe94f82b', 'a54ff53a5f1d36f1',
            '510e527fade682d1', '9b05688c2b3e6c1f', '1f83d9abfb41bd6b', '5be0cd19137e2179',
        ].collect { Long.parseUnsignedLong(it, 16) } as long[]

        private static final String[] ORDER = [
            '0123456789abcdef', 'ea489fd61c02b753', 'b8c052fdae367194', '7931dcbe265a40f8',
            '905724afe1bc683d', '2c6a0b834d75fe19',
            'c51fed4a0763928b', 'db7ec13950f4862a', '6fe9b308c2d714a5', 'a2847615fb9e3cd0',
        ] as String[]

        static long digest8(byte[] data) {
            long[] h = IV.clone()
            h[0] ^= 0x01010008L
            int blocks = Math.max(1, (data.length + 127).intdiv(128) as int)
            for (int i = 0; i < blocks; i++) {
                byte[] block = Arrays.copyOfRange(data, 128 * i, 128 * (i + 1))
                boolean last = i == blocks - 1
                compress(h, block, last ? data.length : 128L * (i + 1), last)
            }
            Long.reverseBytes(h[0])
        }

        private static void compress(long[] h, byte[] block, long count, boolean last) {
            java.nio.LongBuffer words = java.nio.ByteBuffer.wrap(block)
                .order(java.nio.ByteOrder.LITTLE_ENDIAN).asLongBuffer()
            long[] v = new long[16]
            System.arraycopy(h, 0, v, 0, 8)
            System.arraycopy(IV, 0, v, 8, 8)
            v[12] ^= count
            if (last) {
                v[14] = ~v[14]
            }
            for (int round = 0; round < 12; round++) {
                String order = ORDER[round % 10]
                for (int g = 0; g < 8; g++) {
                    mix(v, g, words.get(Character.digit(order.charAt(2 * g), 16)),
                        words.get(Character.digit(order.charAt(2 * g + 1), 16)))
                }
            }
            for (int i = 0; i < 8; i++) {
                h[i] ^= v[i] ^ v[i + 8]
            }
        }

        /** Mix two words into a column (g below 4) or a diagonal. */
        private static void mix(long[] v, int g, long x, long y) {
            int turn = g < 4 ? 0 : 1
            int a = g % 4
            int b = 4 + (a + turn) % 4
            int c = 8 + (a + 2 * turn) % 4
            int d = 12 + (a + 3 * turn) % 4
            v[a] = v[a] + v[b] + x
            v[d] = Long.rotateRight(v[d] ^ v[a], 32)
            v[c] = v[c] + v[d]
            v[b] = Long.rotateRight(v[b] ^ v[c], 24)
            v[a] = v[a] + v[b] + y
            v[d] = Long.rotateRight(v[d] ^ v[a], 16)
            v[c] = v[c] + v[d]
            v[b] = Long.rotateRight(v[b] ^ v[c], 63)
        }
    }

    /** JSON, since QuPath brings Groovy without its JSON module. */
    @CompileStatic
    static class Json {

        private final String text
        private int at

        private Json(String text) { this.text = text }

        /** Return maps, lists, strings, Long, Double, Boolean and null. Raises IllegalArgumentException. */
        static Object read(String text) {
            Json reader = new Json(text)
            try {
                Object value = reader.value()
                if (reader.peek() != (char) 0) {
                    throw reader.broken()
                }
                return value
            } catch (IndexOutOfBoundsException | StackOverflowError ignored) {
                throw reader.broken()
            }
        }

        /** Return a value as JSON, in ASCII only. */
        static String write(Object value) {
            StringBuilder out = new StringBuilder()
            writeValue(value, out)
            out.toString()
        }

        private static void writeValue(Object value, StringBuilder out) {
            if (value instanceof Map) {
                String before = '{'
                for (Map.Entry entry : ((Map<?, ?>) value).entrySet()) {
                    out.append(before)
                    writeText(entry.key.toString(), out)
                    out.append(':')
                    writeValue(entry.value, out)
                    before = ','
                }
                out.append(before == '{' ? '{}' : '}')
            } else if (value instanceof Iterable) {
                String before = '['
                for (Object item : (Iterable<?>) value) {
                    out.append(before)
                    writeValue(item, out)
                    before = ','
                }
                out.append(before == '[' ? '[]' : ']')
            } else if (value == null || value instanceof Number || value instanceof Boolean) {
                out.append(value)
            } else {
                writeText(value.toString(), out)
            }
        }

        private static void writeText(String value, StringBuilder out) {
            out.append('"')
            for (int i = 0; i < value.length(); i++) {
                char c = value.charAt(i)
                if (c == (char) '"' || c == (char) '\\') {
                    out.append('\\').append(c)
                } else if (c < (char) ' ' || c > (char) '~') {
                    out.append(String.format('\\u%04x', (int) c))
                } else {
                    out.append(c)
                }
            }
            out.append('"')
        }

        private IllegalArgumentException broken() { new IllegalArgumentException("no JSON from character $at on") }

        /** Return the next character that is no blank, without taking it; 0 at the end. */
        private char peek() {
            while (at < text.length() && text.charAt(at) <= (char) ' ') {
                at++
            }
            at < text.length() ? text.charAt(at) : (char) 0
        }

        private boolean take(String c) {
            boolean here = peek() == c.charAt(0)
            at += here ? 1 : 0
            here
        }

        private Object value() {
            switch (peek()) {
                case '{': return map()
                case '[': return list()
                case '"': return string()
                default: return word()
            }
        }

        private Map map() {
            Map<String, Object> found = [:]
            take('{')
            while (!take('}')) {
                if ((found && !take(',')) || peek() != (char) '"') {
                    throw broken()
                }
                String key = string()
                if (!take(':')) {
                    throw broken()
                }
                found.put(key, value())
            }
            found
        }

        private List list() {
            List<Object> found = []
            take('[')
            while (!take(']')) {
                if (found && !take(',')) {
                    throw broken()
                }
                found.add(value())
            }
            found
        }

        private String string() {
            int start = ++at
            StringBuilder escaped = null
            while (text.charAt(at) != (char) '"') {
                if (text.charAt(at) == (char) '\\') {
                    escaped = (escaped ?: new StringBuilder()).append(text, start, at)
                    escaped.append(escape())
                    start = at
                } else {
                    at++
                }
            }
            String rest = text.substring(start, at++)
            escaped == null ? rest : escaped.append(rest).toString()
        }

        private char escape() {
            char kind = text.charAt(at + 1)
            int plain = 'bfnrt"\\/'.indexOf((int) kind)
            if (plain >= 0) {
                at += 2
                return '\b\f\n\r\t"\\/'.charAt(plain)
            }
            if (kind != (char) 'u') {
                throw broken()
            }
            at += 6
            (char) Integer.parseInt(text.substring(at - 4, at), 16)
        }

        private Object word() {
            int start = at
            while (at < text.length() && ',]}: \t\r\n'.indexOf((int) text.charAt(at)) < 0) {
                at++
            }
            String word = text.substring(start, at)
            switch (word) {
                case 'true': return true
                case 'false': return false
                case 'null': return null
                case '': throw broken()
            }
            try {
                return word ==~ /-?\d{1,18}/ ? (Object) Long.valueOf(word) : (Object) Double.valueOf(word)
            } catch (NumberFormatException ignored) {
                throw broken()
            }
        }
    }
}

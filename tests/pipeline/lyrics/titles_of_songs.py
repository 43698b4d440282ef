"""Titles of well-known songs, and lines of old poems and folk songs, as they stand in tags."""

from __future__ import annotations


def _titles(lines: str) -> list[str]:
    return [title for line in lines.strip().splitlines() for title in line.split("|")]


JAPANESE = _titles("""
上を向いて歩こう|川の流れのように|世界に一つだけの花|津軽海峡・冬景色|涙そうそう|島唄|少年時代
時の流れに身をまかせ|残酷な天使のテーゼ|夜に駆ける|千本桜|紅蓮華|いとしのエリー|襟裳岬|北国の春|春よ、来い
卒業写真|ひこうき雲|やさしさに包まれたなら|となりのトトロ|さくらさくら|君が代|荒城の月|赤とんぼ|故郷|花|夏は来ぬ
朧月夜|紅葉|茶摘み|浜辺の歌|早春賦|埴生の宿|蛍の光|仰げば尊し|春の小川|雪|鯉のぼり|我は海の子|村祭|かごめかごめ
通りゃんせ|ずいずいずっころばし|どんぐりころころ|しゃぼん玉|七つの子|赤い靴|青い眼の人形|月の沙漠|砂山|この道
からたちの花|椰子の実|竹田の子守唄|五木の子守唄|ソーラン節|炭坑節|東京音頭|糸|空も飛べるはず|チェリー|ロビンソン
サライ|乾杯|とんぼ|贈る言葉|なごり雪|神田川|心の旅|青春の影|サボテンの花|木綿のハンカチーフ|愛燦燦|天城越え|舟唄
雪國|昴|いい日旅立ち|秋桜|異邦人|待つわ|恋人よ|ルビーの指環|初恋|赤いスイートピー|瑠璃色の地球|青い珊瑚礁|粉雪
小さな恋のうた|栄光の架橋|奏|三日月|雪の華|桜坂|千の風になって|手紙 〜拝啓 十五の君へ〜|打上花火|前前前世|紅
丸ノ内サディスティック|うさぎ追いしかの山 小鮒釣りしかの川|夢は今もめぐりて 忘れがたき故郷
春高楼の花の宴 めぐる盃かげさして|夕焼小焼の赤とんぼ 負われて見たのはいつの日か
菜の花畠に入日薄れ 見わたす山の端霞深し|秋の夕日に照る山紅葉|名も知らぬ遠き島より 流れ寄る椰子の実一つ
荒れ野を越えて あの町この町 日が暮れる|古池や蛙飛びこむ水の音|いろはにほへと ちりぬるを
""")
CHINESE = _titles("""
月亮代表我的心|甜蜜蜜|十年|晴天|稻香|青花瓷|七里香|菊花台|千里之外|夜曲|简单爱|双截棍|东风破|发如雪|告白气球
光年之外|演员|平凡之路|那些花儿|生如夏花|同桌的你|童年|恰似你的温柔|外婆的澎湖湾|乡间的小路|橄榄树|酒干倘卖无
明天会更好|爱拼才会赢|朋友|真心英雄|吻别|一千个伤心的理由|忘情水|天意|男人哭吧不是罪|笨小孩|爱如潮水|大约在冬季
我愿意|红豆|传奇|匆匆那年|后来|勇气|遇见|天黑黑|隐形的翅膀|欧若拉|茉莉花|小城故事|夜来香|何日君再来|但愿人长久
又见炊烟|在希望的田野上|我和我的祖国|歌唱祖国|义勇军进行曲|黄河大合唱|听妈妈的话|不能说的秘密|夜空中最亮的星
小幸运|体面|消愁|成都|南山南|董小姐|小苹果|最炫民族风|荷塘月色|青藏高原|康定情歌|敖包相会|九儿
床前明月光，疑是地上霜|举头望明月，低头思故乡|春眠不觉晓，处处闻啼鸟|红豆生南国，春来发几枝
明月几时有，把酒问青天|但愿人长久，千里共婵娟|大江东去，浪淘尽，千古风流人物|独在异乡为异客，每逢佳节倍思亲
海内存知己，天涯若比邻|好一朵美丽的茉莉花
""")
TRADITIONAL = _titles("""
海闊天空|光輝歲月|真的愛你|喜歡你|上海灘|獅子山下|滄海一聲笑|千千闕歌|夕陽之歌|風繼續吹|倩女幽魂|當愛已成往事
一生所愛|浮誇|富士山下|陰天快樂|愛情轉移|紅日|月半小夜曲|偏偏喜歡你|鐵血丹心|世間始終你好|友情歲月|相思風雨中
小城故事|望春風|雨夜花|月夜愁|四季紅|綠島小夜曲|橄欖樹|鹿港小鎮|戀曲一九九零|龍的傳人|童年|愛的代價|夢醒時分
領悟|聽海|姊妹|愛你一萬年|千里之外|菊花台|蘭亭序|聽媽媽的話|床前明月光，疑是地上霜|舉頭望明月，低頭思故鄉
獨在異鄉為異客，每逢佳節倍思親|海內存知己，天涯若比鄰|紅豆生南國，春來發幾枝
""")
KOREAN = _titles("""
아리랑|강남스타일|벚꽃 엔딩|봄날|좋은 날|밤편지|너의 의미|사랑했지만|서른 즈음에|광화문에서|이등병의 편지
먼지가 되어|거리에서|그날들|소주 한 잔|보고싶다|애인 있어요|총 맞은 것처럼|거짓말|하루 하루|눈의 꽃
미안하다 사랑한다|첫눈처럼 너에게 가겠다|돌아와요 부산항에|동백 아가씨|목포의 눈물|눈물 젖은 두만강|고향의 봄
섬집 아기|반달|오빠 생각|과수원 길|나뭇잎 배|가을 우체국 앞에서|바람이 분다|사랑의 배터리|무조건|어머나
내 나이가 어때서|잊혀진 계절|비처럼 음악처럼|붉은 노을|가로수 그늘 아래 서면|옛사랑|소녀|빗속에서|슬픈 인연
여행을 떠나요|단발머리|모나리자|그 겨울의 찻집|친구여|촛불|홀로 아리랑|독도는 우리 땅|애국가
동해물과 백두산이 마르고 닳도록 하느님이 보우하사 우리나라 만세|아리랑 아리랑 아라리요 아리랑 고개로 넘어간다
나를 버리고 가시는 님은 십리도 못가서 발병난다|나의 살던 고향은 꽃피는 산골 복숭아꽃 살구꽃 아기 진달래
나 보기가 역겨워 가실 때에는 말없이 고이 보내 드리우리다
엄마가 섬그늘에 굴 따러 가면 아기가 혼자 남아 집을 보다가
""")
RUSSIAN = _titles("""
Калинка|Катюша|Подмосковные вечера|Очи чёрные|Миллион алых роз|Группа крови|Звезда по имени Солнце
Ой, мороз, мороз|Во поле берёза стояла|Из-за острова на стрежень|Выхожу один я на дорогу|Смуглянка
Эх, дубинушка, ухнем!|Вечерний звон
""")
_WITH_ACCENTS = _titles("""
Björk|Sigur Rós|Motörhead|Mötley Crüe|Queensrÿche|Hüsker Dü|Blue Öyster Cult|Céline Dion|Beyoncé|Zoé|Café Tacvba
Maná|Los Ángeles Azules|La Vie en rose – Édith Piaf|Non, je ne regrette rien|À la claire fontaine
Ça plane pour moi|Ma chérie|Voilà|L'été indien|Été 67|Noël|Où es-tu ?|Françoise Hardy|Frère Jacques
Il était une bergère|Cœur de pirate|Aïcha|Là-bas|Tu es déjà là|J'ai demandé à la lune|Élisa|Déjà vu|Naïve
“naïve café”|Für Elise|Über den Wolken|Männer|Grönemeyer|Die Ärzte|Schrei nach Liebe – Die Ärzte|Müßig gehn|Weiß
Straße|Größer|Süßer die Glocken nie klingen|O Tannenbaum, wie grün sind deine Blätter|Stille Nacht
Schöner Götterfunken|Tränen lügen nicht|Ein Männlein steht im Walde|Böhse Onkelz|Könige|Corazón|Corazón espinado
Canción del mariachi|Cielito lindo|Bésame mucho|¿Dónde jugarán los niños?|¡Ay, Jalisco, no te rajes!|Años|Niño
Señorita|Despacito|Águila o sol|Volveré|Tú|Él|Mañana|La Niña de fuego|Piel canela|Sólo tú|España|Después de ti
Cómo te voy a olvidar|Mi corazón encantado|Garota de Ipanema|Águas de março|Você é linda|Coração|Não|São Paulo
Construção|Canção do mar|Saudação|Irmãos|Mãe|Pão e poesia|É o amor|Fado português|Caruso|Perché|Più bella cosa
Città vuota|Già|Così celeste|Libertà|Virtù|Laura non c'è|Se telefonando|Sarà perché ti amo|Azzurro|Sånger
Små grodorna|Hej, tomtegubbar, slå i glasen|Så länge skutan kan gå|Vår|Öppna landskap|Åh|Älskar, älskar inte
Nu är det jul igen|Ænima|Ágætis byrjun|Hoppípolla|Sæglópur|Þursaflokkurinn
Gobbledigook – Með suð í eyrum við spilum endalaust|Brjótum|Þú og ég|Öxar við ána|Säkkijärven polkka|Yö|Tähti
Hyvää yötä|Määttänen|Pää|Kesäyö|Älä itke|Kärhämä|Veljeni jäätyneellä tiellä|Äiti|Työ|På vei|Jeg ser på deg
Røyksopp|Mørke|Kære|Ø|Bøhmen|Dejlig er jorden så skøn|Sødt|Håb|Ære|Så går vi til enebærbusk|Dvořák
Händel: Messiah|Saint-Saëns: Le Cygne|Fauré: Après un rêve|Poème|Prélude à l'après-midi d'un faune
Étude Op. 10 n° 3|Ludwig van Köchel|Caffè «Greco»|Live @ Montréal ©1999|It’s “over” … or is it? – Yes™|50¢ & £5
Señor ½|4′33″|Fiancé|Jalapeño|Übermensch|Smörgåsbord|Das Model (für R & D)
""")
EUROPEAN = [
    title
    for title in _WITH_ACCENTS
    if not title.isascii() and title.encode("cp1252", "ignore").decode("cp1252") == title
]
